"""Known defects of the locks, and the tests that must see them: ``python -m tests.locks.mutants``.

Each is planted in a copy of the package, beside a copy of the tests, and the tests named for it are
run there: they must turn red. The copy without a defect must stay green, or red would say nothing.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCKS = Path("labshop/locks")
AT_ONCE = 2
TIMEOUT_S = 240


@dataclass(frozen=True)
class Mutant:
    """One defect: a text of a file in another's place, and who sees it."""

    name: str
    file: str
    old: str
    new: str
    seen_by: str

    def plant(self, root: Path) -> None:
        """Put the defect into a copy of the package.

        Raises:
            ValueError: the text is not there, or not once.
        """
        path = root / LOCKS / self.file
        source = path.read_text(encoding="utf-8")
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} has changed; plant this defect anew")
        path.write_text(source.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True)
class Verdict:
    """What became of a run of tests."""

    is_red: bool
    first_failure: str
    output: str


MUTANTS = (
    # Whose lock it is.
    Mutant(
        "a pending request is not withdrawn before it is undone",
        "claim.py",
        "            self._reply.cancel()\n",
        "            pass\n",
        "test_hand_over.py::test_cancelled_in_the_moment_of_its_turn_it_is_not_asked_for_again",
    ),
    Mutant(
        "a follower that cannot ask breaks who leaves",
        "claim.py",
        "        with suppress(Exception):\n            self._ask(jumps=True)\n",
        "        self._ask(jumps=True)\n",
        "test_hand_over.py::test_a_follower_that_cannot_ask_is_nobody_elses_fault",
    ),
    Mutant(
        "release without looking whose it is",
        "lua/release_locks.lua",
        "if holder == ARGV[1] then",
        "if holder then",
        "test_conformance.py::test_a_lease_that_ran_out_is_lost[single]",
    ),
    Mutant(
        "taking a vote back without looking whose it is",
        "lua/release_vote.lua",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end",
        "",
        "test_conformance.py::test_a_lease_that_ran_out_is_lost[redlock]",
    ),
    Mutant(
        "extension without looking whose it is",
        "lua/extend_locks.lua",
        "if redis.call('GET', KEYS[number]) ~= ARGV[1] then return 0 end",
        "",
        "test_conformance.py::test_a_lease_that_ran_out_is_lost[single]",
    ),
    Mutant(
        "not mine although it is",
        "lua/acquire_locks.lua",
        "if redis.call('GET', lock) ~= token then return false end",
        "if true then return false end",
        "test_hand_over.py::test_a_release_hands_over_and_wakes",
    ),
    # Time.
    Mutant(
        "no time to live",
        "lua/acquire_locks.lua",
        "'NX', 'PX', ttl_ms",
        "'NX'",
        "test_conformance.py::test_a_waiter_gets_it_when_the_lease_of_a_dead_holder_ends[single]",
    ),
    Mutant(
        "no time to live of a vote",
        "lua/acquire_vote.lua",
        "'NX', 'PX', ARGV[2]",
        "'NX'",
        "test_conformance.py::test_a_waiter_gets_it_when_the_lease_of_a_dead_holder_ends[redlock]",
    ),
    Mutant(
        "an extension that shortens",
        "lua/extend_locks.lua",
        "ARGV[2], 'GT'",
        "ARGV[2]",
        "test_single_lock.py::test_extend_never_shortens",
    ),
    Mutant(
        "a lease that has ended is handed out",
        "claim.py",
        "if now_ms >= self.deadline_ms:",
        "if now_ms < 0:",
        "test_lost_messages.py::test_a_reply_after_the_end_of_the_lease_is_no_grant[single]",
    ),
    Mutant(
        "several locks, of which one has ended",
        "multi.py",
        "if now_ms >= ended.deadline_ms:",
        "if now_ms < 0:",
        "test_multi.py::test_a_lock_that_ended_while_the_next_was_waited_for_is_not_handed_out",
    ),
    Mutant(
        "a quorum's lease is not looked at",
        "quorum.py",
        "if now_ms >= self.deadline_ms:",
        "if now_ms < 0:",
        "test_redlock.py::test_with_nothing_left_it_was_not_granted",
    ),
    Mutant(
        "a quorum's lease with exactly nothing left",
        "quorum.py",
        "if now_ms >= self.deadline_ms:",
        "if now_ms > self.deadline_ms:",
        "test_redlock.py::test_with_nothing_left_it_was_not_granted",
    ),
    Mutant(
        "no drift",
        "quorum.py",
        "self._sent_ms + self._terms.ttl_ms - self._terms.drift_ms",
        "self._sent_ms + self._terms.ttl_ms",
        "test_redlock.py::test_it_is_valid_for_its_time_less_what_asking_took_less_the_drift",
    ),
    Mutant(
        "no drift in an extension",
        "quorum.py",
        "deadline_ms = sent_ms + ttl_ms - drift_ms",
        "deadline_ms = sent_ms + ttl_ms",
        "test_redlock.py::test_an_extension_needs_a_majority",
    ),
    Mutant(
        "an extension after the end",
        "quorum.py",
        "if self._clock.now_ms() >= self.deadline_ms or",
        "if",
        "test_redlock.py::test_an_extension_that_comes_after_the_end_is_too_late",
    ),
    # Majorities.
    Mutant(
        "half is a majority",
        "ballot.py",
        "len(self.nodes) // 2 + 1",
        "len(self.nodes) // 2",
        "test_redlock_masks.py::test_it_is_granted_by_a_majority_and_by_nothing_less",
    ),
    Mutant(
        "more than a majority",
        "ballot.py",
        "self.yes >= self.quorum or",
        "self.yes > self.quorum or",
        "test_redlock_masks.py::test_it_is_granted_by_a_majority_and_by_nothing_less",
    ),
    Mutant(
        "an extension without a quorum",
        "quorum.py",
        "            raise self._no_quorum(ballot)\n        drift",
        "            pass\n        drift",
        "test_redlock.py::test_an_extension_needs_a_majority",
    ),
    Mutant(
        "no quarantine",
        "quorum.py",
        "if young_ms > 0:",
        "if young_ms > float('inf'):",
        "test_quarantine.py::test_a_vote_that_was_forgotten_does_not_make_a_second_holder",
    ),
    Mutant(
        "a node's clock is believed",
        "greeting.py",
        "max(began_s, heard_at_s)",
        "began_s",
        "test_quarantine.py::test_a_clock_that_jumps_does_not_end_a_quarantine",
    ),
    Mutant(
        "a node is taken for a second older",
        "greeting.py",
        'float(server["uptime_in_seconds"]) - 1)',
        'float(server["uptime_in_seconds"]))',
        "test_quarantine.py::test_whole_seconds_do_not_make_a_node_older_than_it_is",
    ),
    # Undoing.
    Mutant(
        "a cancelled claim is left as it is",
        "claim.py",
        "        except BaseException:\n            self._undo()",
        "        except Exception:\n            self._undo()",
        "test_cancel.py::test_a_thousand_cancelled_tasks_leave_nothing[single-acquiring]",
    ),
    Mutant(
        "a cancelled vote is left as it is",
        "quorum.py",
        "        except BaseException:\n            self._withdraw()",
        "        except Exception:\n            self._withdraw()",
        "test_cancel.py::test_a_thousand_cancelled_tasks_leave_nothing[redlock-acquiring]",
    ),
    Mutant(
        "a claim without a reply is left as it is",
        "claim.py",
        "        except BaseException:\n            self._undo()",
        "        except (NotGranted, asyncio.CancelledError):\n            self._undo()",
        "test_lost_messages.py::test_a_lost_reply_leaves_no_orphan[single-undone]",
    ),
    Mutant(
        "the first of several that is interrupted leaves the others",
        "multi.py",
        "the others are released too\n                errors.append(error)",
        "the others are not\n                raise",
        "test_cancel.py::test_a_thousand_cancelled_tasks_leave_nothing[multi-nodes-releasing]",
    ),
    Mutant(
        "the old connection is not ended",
        "connection.py",
        'wire.send(("CLIENT", "KILL", "ID", self._run.client_id))',
        'wire.send(("PING",))',
        "test_reconnect.py::"
        "test_what_is_still_on_its_way_over_the_old_connection_never_arrives[killed]",
    ),
    Mutant(
        "nothing is owed",
        "connection.py",
        "self._owed.extend(it.undo for it in unanswered if isinstance(it.undo, Undo))",
        "",
        "test_lost_messages.py::test_a_release_that_is_lost_is_sent_again[single-owed-requests]",
    ),
    Mutant(
        "what is owed is not sent again",
        "connection.py",
        "while self._owed:",
        "while self._owed and False:",
        "test_reconnect.py::test_what_is_owed_comes_first_on_the_next_connection[owed]",
    ),
    Mutant(
        "stragglers are not undone",
        "ballot.py",
        "        self.asked.append(node)\n",
        "        reply.add_done_callback(lambda _: self._is_over or self.asked.append(node))\n",
        "test_redlock.py::test_a_straggler_is_undone[undone]",
    ),
    Mutant(
        "a node that is reached after the end is asked",
        "ballot.py",
        "        if self._is_over:\n            return\n",
        "",
        "test_redlock.py::test_a_node_that_is_reached_after_the_release_is_not_asked",
    ),
    Mutant(
        "an undoing that met a busy server is forgotten",
        "wire.py",
        "self._loop.call_later(self._timeout_s, self._on_busy, pending.undo)",
        "pass",
        "test_reconnect.py::test_an_undoing_that_met_a_busy_server_is_sent_again",
    ),
    Mutant(
        "the undoing of one vote hits the next",
        "quorum.py",
        'f"{self._token}.{self._tries}"',
        "self._token",
        "test_reconnect.py::test_a_late_undoing_of_one_vote_leaves_the_next_alone",
    ),
    Mutant(
        "a vote is sent again behind its undoing",
        "ballot.py",
        "            reply.cancel()\n",
        "            reply.done()\n",
        "test_redlock.py::test_a_vote_that_lost_its_script_is_not_cast_after_its_undoing",
    ),
    # Waiting.
    Mutant(
        "the dead are not skipped",
        "lua/hand_over.lua",
        "if tonumber(until_ms) >= now_us() / 1000 then return",
        "if tonumber(until_ms) then return",
        "test_hand_over.py::test_a_dead_waiter_at_the_head_is_skipped",
    ),
    Mutant(
        "a grant to the dead lasts",
        "lua/hand_over.lua",
        "math.min(ttl_ms, 1000)",
        "ttl_ms",
        "test_hand_over.py::test_a_grant_to_the_dead_ends_within_a_second",
    ),
    Mutant(
        "nobody is woken",
        "lua/hand_over.lua",
        "    redis.call('PUBLISH', channel, token)\n",
        "",
        "test_hand_over.py::test_a_release_hands_over_and_wakes",
    ),
    Mutant(
        "who waits only listens",
        "claim.py",
        "min(at_most_ms + 1, LOOK_AGAIN_MS)",
        "(at_most_ms + 1)",
        "test_hand_over.py::test_a_lost_wake_up_is_made_good",
    ),
    Mutant(
        "a newcomer overtakes",
        "lua/acquire_locks.lua",
        "if first and first ~= token then hand_over(lock, queue, waiters) end",
        "",
        "test_hand_over.py::test_only_one_who_barges_takes_a_free_lock_from_a_queue",
    ),
    Mutant(
        "one holder too many in a row",
        "turns.py",
        "queue.run + 1 < RUN",
        "queue.run < RUN",
        "test_hand_over.py::test_a_process_keeps_it_for_a_bounded_run",
    ),
    Mutant(
        "a refused voter is not told",
        "quorum.py",
        "int(waits)",
        "0",
        "test_redlock.py::test_a_release_wakes_who_was_refused",
    ),
    Mutant(
        "forcing a lock frees it for whoever comes",
        "lua/force_release.lua",
        "hand_over(KEYS[1], KEYS[2], KEYS[3])",
        "",
        "test_admin.py::test_a_lock_is_taken_away_for_the_next_one",
    ),
    Mutant(
        "a holder that hangs keeps its process waiting",
        "lease.py",
        "            self.claim.leave_turns()\n",
        "            pass\n",
        "test_conformance.py::test_a_task_that_hangs_keeps_nobody_waiting_beyond_its_lease[single]",
    ),
    # The rest.
    Mutant(
        "the fence is not counted",
        "lua/acquire_locks.lua",
        "redis.call('GET', KEYS[first + 1]) or 0) + 1)",
        "redis.call('GET', KEYS[first + 1]) or 0))",
        "test_fences.py",
    ),
    Mutant(
        "locks in the order of naming",
        "multi.py",
        "for key in sorted(by_key))",
        "for key in by_key)",
        "test_multi.py::test_opposite_orders_cannot_deadlock",
    ),
    Mutant(
        "one extension more",
        "renewal.py",
        "range(renewal.times)",
        "range(renewal.times + 1)",
        "test_renewal.py::test_it_extends_a_bounded_number_of_times[single]",
    ),
    Mutant(
        "a renewal outlives its body",
        "renewal.py",
        "                keeper.cancel()\n                await asyncio.wait((keeper,))",
        "                pass",
        "test_renewal.py::test_it_ends_with_the_body[single]",
    ),
    Mutant(
        "the elder gives way",
        "lua/wait_for.lua",
        "tonumber(its_born) > youngest_born",
        "tonumber(its_born) < youngest_born",
        "test_deadlock.py::test_an_older_one_that_closes_the_cycle_makes_the_younger_give_way",
    ),
    Mutant(
        "a crashed owner is believed",
        "lua/wait_for.lua",
        "  if tonumber(until_us) < now_us then return {born, ''} end\n",
        "",
        "test_deadlock.py::test_a_crashed_owner_closes_no_cycle",
    ),
    Mutant(
        "the map of a cluster is not read anew",
        "cluster.py",
        "            await self._cluster.refresh()\n",
        "",
        "test_cluster.py::test_a_lock_is_found_where_its_slot_has_moved[refreshes]",
    ),
)


def try_on_a_copy(mutant: Mutant | None, *tests: str) -> Verdict:
    """Run tests on a copy of the package, with a defect or without one."""
    with tempfile.TemporaryDirectory(prefix="labshop-mutant-") as folder:
        root = Path(folder)
        copy_to(root)
        if mutant is not None:
            mutant.plant(root)
        command = [sys.executable, "-m", "pytest", "-x", "-n", "0", "-rfE", "--no-header"]
        command += ["-p", "no:cacheprovider", "--timeout", "60"]
        # Of what is installed, only what the tests need: the rest takes seconds to load.
        command += ["-p", "pytest_asyncio.plugin", "-p", "pytest_timeout", "-p", "xdist.plugin"]
        # First in the folder and on the path: the copy, also for the processes of the tests.
        environment = {**os.environ, "PYTHONPATH": folder, "PYTEST_ADDOPTS": ""}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        run = subprocess.run(
            [*command, *(f"tests/locks/{test}" for test in tests)],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        failed = re.search(r"^(?:FAILED|ERROR) tests/locks/(\S+)", run.stdout, re.MULTILINE)
        # 1 says that a test failed; whatever else is wrong is no verdict about the defect.
        if run.returncode not in {0, 1}:
            raise RuntimeError(run.stdout + run.stderr)
        return Verdict(run.returncode == 1, failed[1] if failed else "", run.stdout)


def copy_to(root: Path) -> None:
    """Copy the package and what its lock tests need, compiled as they are, for speed."""
    shutil.copytree(ROOT / "labshop", root / "labshop")
    shutil.copytree(ROOT / "tests/locks", root / "tests/locks")
    for name in ("tests/__init__.py", "tests/conftest.py", "tests/ledgers.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)


def main() -> int:
    """Try all; returns how many defects were missed."""
    everything = sorted({mutant.seen_by for mutant in MUTANTS})
    sound = try_on_a_copy(None, *everything)
    if sound.is_red:
        print(sound.output)  # noqa: T201  # a command
        print(f"WITHOUT A DEFECT {sound.first_failure} is red")  # noqa: T201  # a command
        return 1
    missed = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = pool.map(lambda mutant: try_on_a_copy(mutant, mutant.seen_by), MUTANTS)
        for mutant, verdict in zip(MUTANTS, verdicts, strict=True):
            missed += not verdict.is_red
            word = f"caught by {verdict.first_failure}" if verdict.is_red else "MISSED"
            print(f"{mutant.name:<60} {word}", flush=True)  # noqa: T201  # a command
    print(f"{len(MUTANTS) - missed} of {len(MUTANTS)} defects caught")  # noqa: T201  # a command
    return missed


if __name__ == "__main__":
    sys.exit(main())
