"""Helpers of the living supplement of "Elephant in the Room".

Data flows one way, and no module imports one that stands further down::

    paper  stats  significance             the paper's numbers as data; intervals and tests
    ledger                                 every number with its interval and origin
    pairs  bundled  downloads              the schema of a pair; weights in packages; public files
    hh  corpora  world                     what comes in: HH-RLHF, other public sets, planted truth
    pitfalls  duplicates  toxicity         what is wrong with a preference pair
    rewardbench  audit  nulls              the paper's own tables under audit (chapter 00)
    claims                                 ledger rows in, verdicts out
    figures  tables                        how numbers and texts are shown
    notebooks  plan  runner                what has to be executed, and its execution
    prose  roles  book                     the number check, its roles, the Jupyter Book
    doctor  cli                            what is here; the `elephant` command
"""
