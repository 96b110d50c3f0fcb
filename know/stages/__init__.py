"""The paper's experiment, a module a stage: what the notebooks call, and the ``know`` command outside DVC.

downsize → forget → meta_train → predict → evaluate → tell. Each module's ``run`` reads what the stages before it wrote
under ``data/``, writes its own results there, and returns tidy tables for the figures. Independent runs go through one
executor, and a killed stage continues with the runs that it had not finished.
"""
