"""The slot of scripts/gpu_check.py for compute-sanitizer: every op test under memcheck, some under racecheck."""
import os
import re
import shutil

from gpu_check_run import WORKERS, in_parallel

# The tags that memcheck judges first, the riskiest before the others; those that the program has besides come after them,
# so that no new one is forgotten. A test is run once, under the first of its tags. racecheck is slower still.
FIRST = ["[blocks]", "[attention]", "[routing]", "[top_b]", "[auction]", "[sinkhorn]", "[hash_blocks]", "[block_values]",
         "[token_rows]", "[ranks]", "[rope]", "[softmax]", "[dropout]", "[router_noise]", "[balance]"]
LAST = ["[contract]", "[ops]"]  # of many ops at once
RACECHECK = ["[top_b]", "[softmax]", "[blocks]"]
NOT_ON_GPU = "~[cpu]"


def tags_of(listed):
    """The tags that Catch's --list-tags prints."""
    return re.findall(r"^ *\d+ +(\[[^\]]+\])", listed, re.M)


def tests_of(listed):
    """The tags of each test that Catch's --list-tests prints: names are indented by 2 and 4, tags by 6."""
    tests = []
    for line in listed.splitlines():
        indent = len(line) - len(line.lstrip(" "))
        if indent == 2:
            tests.append([])
        elif indent >= 6 and tests:
            tests[-1] += re.findall(r"\[[^\]]+\]", line)
    return tests


def plan(tags, tests):
    """([(tag, specification, tests)], names in FIRST and RACECHECK that no test has). Each test is in one of them."""
    order = [tag for tag in FIRST if tag in tags]
    order += [tag for tag in tags if tag not in FIRST + LAST] + [tag for tag in LAST if tag in tags]
    specifications, left, before = [], tests, NOT_ON_GPU
    for tag in order:
        own = [test for test in left if tag in test]
        if own:
            specifications.append((tag, tag + before, len(own)))
        left = [test for test in left if tag not in test]
        before += "~" + tag
    if left:
        specifications.append(("no tag", before, len(left)))
    return specifications, sorted(set(FIRST + RACECHECK) - set(tags))


def summary(jobs, codes, unknown):
    """(result, lines): codes are None where the time was over."""
    names = [f"{kind} {tag}" for kind, tag, _, _ in jobs]
    checked = [name for name, code in zip(names, codes) if code is not None]
    bad = [name for name, code in zip(names, codes) if code]
    late = [name for name, code in zip(names, codes) if code is None]
    memcheck = [(tests, code) for (kind, _, _, tests), code in zip(jobs, codes) if kind == "memcheck"]
    reached = sum(tests for tests, code in memcheck if code is not None)
    lines = [f"clean: {len(checked) - len(bad)} of {len(checked)}",
             f"memcheck reached {reached} of {sum(tests for tests, _ in memcheck)} tests", *bad]
    if late:
        lines.append(f"not done in time: {', '.join(late)}")
    if unknown:
        lines.append(f"no test has these tags of scripts/gpu_check_sanitizer.py: {', '.join(unknown)}")
    return {"good": bool(checked) and not bad and not unknown, "checked": checked, "late": late, "summary": lines}


def sanitizer(run_):
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not os.access(tool, os.X_OK):
        return {"good": None, "summary": ["compute-sanitizer is not on this machine"]}
    program = os.path.join(run_.build, "tests", "test_ops")
    tags, tests = (run_.command(program, option, NOT_ON_GPU)[1] for option in ("--list-tags", "--list-tests"))
    specifications, unknown = plan(tags_of(tags), tests_of(tests))
    memcheck = [("memcheck", *specification) for specification in specifications]
    racecheck = [("racecheck", tag, tag + NOT_ON_GPU, 0) for tag in RACECHECK]
    risky = sum(tag in FIRST for _, tag, _, _ in memcheck)
    jobs = memcheck[:risky] + racecheck + memcheck[risky:]

    def judge(job):
        kind, _, specification, _ = job
        code, printed = run_.command(tool, "--tool", kind, "--error-exitcode", 9, program, specification,
                                     processes=WORKERS // 2)
        run_.log.write(printed)
        return code

    return summary(jobs, in_parallel(jobs, judge), unknown)
