"""A Slurm that refuses jobs or does not answer, for a while or for good; with a stand-in that runs nothing."""

import pytest
from sweep import launching

from ssljax.errors import InputError
from ssljax.sweep import folder as folders
from ssljax.sweep import launch
from ssljax.sweep.executors import Refused, Slurm

NAMES = ("a/seed-0", "b/seed-0", "c/seed-0")


class Queue(Slurm):
    """Takes `limit` jobs at once, each of which has finished when it is looked at the third time.

    Attributes:
        most: Jobs taken in all.
        silent: Turns for which it says nothing.
    """

    slots, pause = (), 0.01

    def __init__(self, limit=1, most=99, silent=0):
        self.limit, self.most, self.silent = limit, most, silent
        self.looks, self.asked, self.order = {}, 0, []

    def submit(self, job):
        if len(self.looks) >= self.limit or len(self.order) >= self.most:
            raise Refused(f"Slurm refuses the job of {job.folder} (Job violates accounting/QOS policy)")
        self.looks[job.folder] = 0
        self.order.append("/".join(job.folder.parts[-2:]))
        folders.write_json(job.folder / "job.json", {"slurm": str(job.folder)})
        return job.folder

    def alive(self, submitted):
        for folder in list(self.looks):
            self.looks[folder] += 1
            if self.looks[folder] == 3:
                del self.looks[folder]
                folders.write_json(folder / "finished.json", {})
        self.asked += 1
        if self.asked <= self.silent:
            raise Refused("Slurm does not say which jobs are in its queue (no controller)")
        return [folder in self.looks for folder in submitted]

    def known(self, folder):
        return folder if (folder / "job.json").exists() else None


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(launch, "RETRY", 0.02)
    monkeypatch.setattr(launch, "PATIENCE", 0.3)


def sweep(folder, queue):
    return launching.launch(folder, dict.fromkeys(NAMES, "good"), (), queue)


def test_what_a_limit_refuses_is_submitted_as_jobs_end(tmp_path, capsys):
    queue = Queue(limit=1)
    states, ended = sweep(tmp_path, queue)
    assert ended and states == dict.fromkeys(NAMES, "finished") and queue.order == list(NAMES)
    assert capsys.readouterr().err.count("Job violates accounting/QOS policy); that is tried again") == 1


def test_it_ends_with_what_sbatch_says_once_nothing_runs(tmp_path):
    queue = Queue(limit=2, most=2)
    with pytest.raises(InputError, match=r"c/seed-0 \(Job violates .*\), for .* minutes in which no run ran"):
        sweep(tmp_path, queue)
    assert [folders.state(tmp_path / name) for name in NAMES] == ["finished", "finished", "waiting"]


def test_a_queue_that_does_not_answer_is_asked_again(tmp_path, capsys):
    """What has finished meanwhile says so itself, and a job of an earlier start that is gone is started again."""
    folders.write_json(tmp_path / NAMES[1] / "job.json", {})
    queue = Queue(limit=9, silent=10)
    states, ended = sweep(tmp_path, queue)
    assert ended and states == dict.fromkeys(NAMES, "finished") and queue.order == [NAMES[0], NAMES[2], NAMES[1]]
    assert capsys.readouterr().err.count("(no controller); that is tried again") == 1


def test_a_queue_that_never_answers_ends_the_sweep(tmp_path):
    folders.write_json(tmp_path / NAMES[1] / "job.json", {})
    with pytest.raises(InputError, match=r"queue \(no controller\), for .* minutes in which no run ran"):
        sweep(tmp_path, Queue(limit=9, silent=10**9))
