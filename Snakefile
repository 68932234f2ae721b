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
RECEIPT = plan["build"] + "/receipts/{name}.json"


rule all:
    input:
        expand(RECEIPT, name=NOTEBOOKS),


rule notebook:
    input:
        lambda wildcards: expand(RECEIPT, name=NOTEBOOKS[wildcards.name]["upstream"]),
    output:
        RECEIPT,
    shell:
        "{sys.executable:q} -m helpers.runner {config[plan]:q} {wildcards.name}"
