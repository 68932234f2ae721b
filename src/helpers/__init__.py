"""Helpers of the living supplement of "Elephant in the Room".

Data flows one way, and no module imports one that stands further down::

    paper  stats  significance             the paper's numbers as data; intervals and tests
    crossed                                means over seeds and prompts, both drawn
    sources  ledger  cores  progress       what code there is; every number; cores; how far it is
    jobs                                   work done only once
    launch                                 one job by several processes
    pairs  splits  bundled  downloads      the schema of a pair; weights in packages; public files
    lexicon  gold                          the gold world's language and its true scores
    hh  formats  corpora                   what comes in: HH-RLHF, a user's own pairs, public sets
    writers  world  planted                pairs whose truth is known
    pitfalls  duplicates  toxicity         what is wrong with a preference pair
    votes  agreement  consensus  recovery  votes in; categories, agreement, their worth out
    templates  batches  encoding           texts as a reward model sees them, packed into batches
    attention  forward  scorecache         what may see what; the forward pass; what is known
    scoring                                scores: fast, exact, never computed twice
    completions  judge  rewards            who can vote: LLM judges, reward models
    catalogue  remaps  weights             facts of public reward models; weights, refused or read
    checkpoints  implicit  endpoint        reward models on disk, from two policies, on a server
    sharding  invariance                   scores by several processes; do they depend on the batch?
    featurecache  minilm  smollm2          frozen features of the bundled models
    embeddings  restart                    reward models on features; killed trainings go on
    training                               what all training shares
    align_reward  graded                   reward models trained end to end; of graded quality
    sequences  policies  standardised      policies that write; rewards on one scale
    policyfiles                            policies on disk
    hindsight  ranking_losses              texts and losses to train policies on
    align_sft  align_dpo  align_ppo        one module a method of alignment, over TRL
    align_pro                              and over Trainer, where no library has it
    panels  suspects                       panels that vote; labels that look wrong without votes
    labelling  labelstudio  annotate       votes by people, through Label Studio
    clean  relabelling  mixes              categories in, cleaned data sets and their like out
    arms                                   the trainings of chapters 06 to 09, as jobs
    circularity                            who had a part in the labels that it is tested on
    accuracy  calibration  truncation      how often a reward model is right; how sure; cut texts
    real_texts  real_arms                  chapters 06 to 08 on real text, judged: as jobs
    trials  ratings  shards  correlation   on unseen pairs; against human scores, item by item
    bestof  suites  probes                 of the answers that it selects; of texts made to trip it
    goodhart  outcomes  trend              proxy against gold; win, tie, lose; a trend over models
    real_models  study_real                whose rewards, and what so little real text can show
    study_dpo  study_pro                   trainings and tables of chapters 06 and 08
    study_implicit                         chapter 06's policies as reward models
    verdict_prompts                        the paper's question to GPT-4, as printed and corrected
    contests  study_ppo                    responses before a judge; tables of chapter 07
    study_goodhart                         proxy against gold, of chapter 09
    rewardbench  audit  nulls              the paper's own tables under audit (chapter 00)
    claims                                 ledger rows in, verdicts out
    figures  tables                        how numbers and texts are shown
    report  data_checks  vote_checks       a page without the book: a user's own data,
    data_summary  data_page  data_report   what is wrong with them, in words, numbers and pairs
    model_measures  model_verdict          a user's own reward model: measured, and fit for what
    model_audit  model_sections            all its measures; each as a part of the page
    model_page  model_report               the page; files in, files out
    machine  devices                       what numbers are made on; cards, their peak and memory
    notebooks  plan  runner                what has to be executed, and its execution
    recorded                               runs on a GPU that are kept
    cost  budget  dag                      what it costs; whether it fits; its order
    history  drift  alarm                  the nights kept; what changed and why; who is told
    prose  roles  status  book             the number check, its roles, the pages, the Jupyter Book
    account  nightly                       what a night found; the night itself
    doctor  arguments  cli                 what is here; the `elephant` command
"""

import warnings

# tqdm asks for a notebook widget; that none is installed would be said on the page, together with
# a path of the machine that made it. Here and not in figures.setup(): some modules import tqdm's
# notebook bar before a notebook comes to set up its figures.
warnings.filterwarnings("ignore", message="IProgress not found")
