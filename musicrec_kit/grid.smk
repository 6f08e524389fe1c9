# A grid's tasks for Snakemake. Which tasks there are was decided before, by the keys of the stages (grid.py); here a
# task is a plain command, done when its empty file in done/ is there. Nobody's results are inputs or outputs: an opened
# notebook reruns nothing, and Snakemake never deletes what a failed or killed task has finished.
import json
import os
import sys
from pathlib import Path

PLAN = json.loads(Path("plan.json").read_text())
TASKS = PLAN["tasks"]


localrules: all


wildcard_constraints:
    task="[^/]+",


rule all:
    input: [f"done/{name}" for name in TASKS]


# exec: the command is Snakemake's own child, and notices when Snakemake dies
rule task:
    input: lambda wildcards: [f"done/{name}" for name in TASKS[wildcards.task]["needs"]]
    output: touch("done/{task}")
    log: "logs/{task}.log"
    threads: PLAN["threads"]
    params: python=sys.executable, here=PLAN["here"], folder=os.getcwd()
    shell:
        "cd {params.here:q}; export OMP_NUM_THREADS={threads} TQDM_MININTERVAL=60; "
        "exec {params.python:q} -m musicrec_kit job {params.folder:q} {wildcards.task:q} > {params.folder:q}/{log:q} 2>&1"
