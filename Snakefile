# The DAG of the notebooks. `elephant run` writes the plan and calls this; nobody needs to by hand.
#
# It only orders: which notebook has to run is decided by content, in helpers.plan and helpers.runner.
# `elephant run` removes the receipt of a notebook whose code, parameters, data or helpers changed; a
# changed receipt of an upstream notebook brings those downstream here too, and the runner then looks
# at what upstream made before it executes anything.
import json
import re
import sys

with open(config["plan"]) as file:
    plan = json.load(file)

NOTEBOOKS = plan["notebooks"]
# What `elephant plan` says of each notebook that has to run; a cluster reserves it, a local run does not look.
ASKED = plan["resources"]
RECEIPT = plan["build"] + "/receipts/{name}.json"
# exec: no shell stays between Snakemake and the runner, which ends with its parent.
RUN = "exec {sys.executable:q} -m helpers.runner {config[plan]:q} {wildcards.name}"


rule all:
    input:
        expand(RECEIPT, name=NOTEBOOKS),


# Two rules that differ in their turn alone: notebooks that train come last, since these can use the cores that
# the others leave. Each is one core here; helpers.cores says who computes on which.
def chosen(training):
    names = [name for name, entry in NOTEBOOKS.items() if entry["training"] == training]
    return "|".join(map(re.escape, names)) or "(?!)"


rule training:
    input:
        lambda wildcards: expand(RECEIPT, name=NOTEBOOKS[wildcards.name]["upstream"]),
    output:
        RECEIPT,
    wildcard_constraints:
        name=chosen(True),
    priority: 0
    resources:
        training=1,
        gpu=lambda wildcards: ASKED[wildcards.name]["gpu"],
        mem_mb=lambda wildcards: ASKED[wildcards.name]["mem_mb"],
        runtime=lambda wildcards: ASKED[wildcards.name]["runtime"],
    shell:
        RUN


rule notebook:
    input:
        lambda wildcards: expand(RECEIPT, name=NOTEBOOKS[wildcards.name]["upstream"]),
    output:
        RECEIPT,
    wildcard_constraints:
        name=chosen(False),
    priority: 1
    resources:
        gpu=lambda wildcards: ASKED[wildcards.name]["gpu"],
        mem_mb=lambda wildcards: ASKED[wildcards.name]["mem_mb"],
        runtime=lambda wildcards: ASKED[wildcards.name]["runtime"],
    shell:
        RUN
