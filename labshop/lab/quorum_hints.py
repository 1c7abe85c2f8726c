"""What lesson 3 says to whoever is stuck, and the key to its exit ticket."""

HINTS = {
    "a majority grants, a minority does not": "A dead node raises NodeError: that is a vote that "
    "you did not get, and no reason to stop. How many of five are more than half?",
    "asks all nodes at once": "asyncio.gather starts all and waits for all; with "
    "return_exceptions=True an error of one node is an answer among the others.",
    "a failed attempt leaves no vote behind": "On which nodes can your SET have been carried out, "
    "or still be? Not only on those that said OK. And whose key is it that you delete?",
    "too late is not granted, wherever it pauses": "Look at the clock before the first command and "
    "after the last answer. What is left may be less than nothing.",
    "says how long the lock is sure": "ttl_ms, less what asking took, less what clocks may drift: "
    "1 % of ttl_ms and 2 ms. time.monotonic() counts in seconds.",
    "ends by itself, wherever the process dies": "Which single command sets a value and its end?",
    "release frees its own, and nothing of others": "Send it to every node, also to one that did "
    "not answer. Looking and deleting must be one step: EVAL, as in lesson 1.",
    "does not believe in the wall clock": "time.time() can be set; another clock of the same "
    "module cannot.",
}

TICKETS = {
    "1. five nodes, three dead": (
        "c",
        "Two of five are no majority; a lock that two nodes could grant, two others could too.",
    ),
    "2. a node comes back without its memory": (
        "b",
        "Whatever it had granted is over by then, so that it cannot grant it a second time.",
    ),
    "3. a holder wakes up after its lease": (
        "c",
        "More nodes do not help a client that stands still; the store can refuse an old fence.",
    ),
}
"""Questions at the exit: the letter of the right answer, and why."""
