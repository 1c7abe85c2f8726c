"""From one `lesson.py` to the two notebooks that learners and instructors open.

The problem: a committed notebook is program, prose and results in one file; written by hand it
drifts from its source, and its results from what the code does.

The idea: `lesson.py` is the only source. It is split (`source`), executed (`execution`), freed of
all that differs from run to run (`normal`), given pictures for readers without JupyterLab
(`pictures`), held to limits (`limits`) and written, or compared (`difference`) with what is there.

It does not promise that a lesson is deterministic: the author makes it so, and `verify` shows it.
"""
