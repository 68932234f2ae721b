# The DAG of the notebooks. `elephant run` writes the plan and calls this; nobody needs to by hand.
#
# A rule reruns when its key (a hash of code cells, parameters, data and imported helpers) or the
# receipt of an upstream notebook changed. Times of files and this file's own text do not count;
# the runner checks once more, with the upstream artefacts known, before it executes anything.
import json
import sys

with open(config["plan"]) as file:
    plan = json.load(file)

NOTEBOOKS = plan["notebooks"]
RECEIPT = plan["build"] + "/receipts/{name}.json"


localrules:
    all,


rule all:
    input:
        expand(RECEIPT, name=NOTEBOOKS),


rule notebook:
    input:
        lambda wildcards: expand(RECEIPT, name=NOTEBOOKS[wildcards.name]["upstream"]),
    output:
        RECEIPT,
    params:
        key=lambda wildcards: NOTEBOOKS[wildcards.name]["key"],
    shell:
        "{sys.executable} -m helpers.runner {config[plan]} {wildcards.name}"
