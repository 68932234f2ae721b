# The DAG of the notebooks. `elephant run` writes the plan and calls this; nobody needs to by hand.
#
# It only orders: which notebook has to run is decided by content, in helpers.plan and helpers.runner.
# `elephant run` removes the receipt of a notebook whose code, parameters, data or helpers changed; a
# changed receipt of an upstream notebook brings those downstream here too, and the runner then looks
# at what upstream made before it executes anything.
import json
import sys

with open(config["plan"]) as file:
    plan = json.load(file)

NOTEBOOKS = plan["notebooks"]
# What `elephant plan` says of each notebook that has to run; a cluster reserves it, a local run does not look.
ASKED = plan["resources"]
RECEIPT = plan["build"] + "/receipts/{name}.json"


rule all:
    input:
        expand(RECEIPT, name=NOTEBOOKS),


rule notebook:
    input:
        lambda wildcards: expand(RECEIPT, name=NOTEBOOKS[wildcards.name]["upstream"]),
    output:
        RECEIPT,
    # A notebook that trains hands its jobs to as many processes as there are cores.
    threads:
        lambda wildcards: workflow.cores if NOTEBOOKS[wildcards.name]["training"] else 1
    resources:
        gpu=lambda wildcards: ASKED[wildcards.name]["gpu"],
        mem_mb=lambda wildcards: ASKED[wildcards.name]["mem_mb"],
        runtime=lambda wildcards: ASKED[wildcards.name]["runtime"],
    shell:
        "{sys.executable:q} -m helpers.runner {config[plan]:q} {wildcards.name}"
