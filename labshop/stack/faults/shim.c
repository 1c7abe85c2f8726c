/* The world as one process sees it: its clock, and whether its disk has room.
 *
 * The problem: a machine has one clock and one disk, and a learner is not root. The idea: the
 * dynamic linker loads this file into one process before the C library (LD_PRELOAD), so that its
 * calls for the time and for writing come here first. What they answer stands in a page of
 * memory, a mapped file named by LABSHOP_FAULT_PAGE, which a test changes while the process runs.
 *
 * CLOCK_MONOTONIC stays true, as it does when an administrator or NTP moves a machine's clock.
 * It does not promise anything to a static program, nor to one that asks the kernel directly.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000LL

/* The same layout stands in shim.py. */
struct line {
    int64_t offset_ns; /* how far the clock was off at `since_ns` */
    int64_t drift_ppm; /* how much faster it has run since, in millionths */
    int64_t since_ns;  /* on CLOCK_MONOTONIC */
};

struct page {
    int64_t pid; /* the process that obeys this page */
    int32_t disk_full;
    int32_t current;      /* which line counts: the other is written first, then this switched */
    struct line lines[2];
};

static volatile struct page *page;
static int (*true_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void obey(void)
{
    true_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("LABSHOP_FAULT_PAGE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    /* A program that this process starts lives in the true world. */
    unsetenv("LABSHOP_FAULT_PAGE");
    if (mapped == MAP_FAILED)
        return;
    page = mapped;
    page->pid = getpid();
}

/* An allocator may ask for the time before `obey` has run. */
static int ask_true_clock(clockid_t clock, struct timespec *now)
{
    if (true_clock_gettime)
        return true_clock_gettime(clock, now);
    return (int)syscall(SYS_clock_gettime, clock, now);
}

static int64_t offset_now_ns(void)
{
    if (!page)
        return 0;
    const volatile struct line *line = &page->lines[page->current & 1];
    if (line->drift_ppm == 0)
        return line->offset_ns;
    struct timespec now;
    ask_true_clock(CLOCK_MONOTONIC, &now);
    int64_t elapsed_ns = now.tv_sec * NS_PER_S + now.tv_nsec - line->since_ns;
    return line->offset_ns + elapsed_ns / 1000 * line->drift_ppm / 1000;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = ask_true_clock(clock, now);
    if (failed || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return failed;
    int64_t moved_ns = now->tv_sec * NS_PER_S + now->tv_nsec + offset_now_ns();
    now->tv_sec = moved_ns / NS_PER_S;
    now->tv_nsec = moved_ns % NS_PER_S;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    (void)zone; /* obsolete: the C library ignores it too */
    struct timespec moved;
    int failed = clock_gettime(CLOCK_REALTIME, &moved);
    now->tv_sec = moved.tv_sec;
    now->tv_usec = moved.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *out)
{
    struct timespec moved;
    clock_gettime(CLOCK_REALTIME, &moved);
    if (out)
        *out = moved.tv_sec;
    return moved.tv_sec;
}

/* Sockets and pipes take no room. Descriptors 0 to 2 are where a process prints: its log, which
 * must be able to say that the disk is full. */
static bool has_no_room(int file)
{
    struct stat status;
    return page && page->disk_full && file > 2 && fstat(file, &status) == 0 &&
           S_ISREG(status.st_mode);
}

static int refuse(void)
{
    errno = ENOSPC;
    return -1;
}

/* Defines a call that fails while the disk of its first argument, `file`, is full. */
#define NEEDS_ROOM(result, name, parameters, arguments, refusal)      \
    result name parameters                                            \
    {                                                                 \
        static result(*next) parameters;                              \
        if (!next)                                                    \
            next = (result(*) parameters)dlsym(RTLD_NEXT, #name);     \
        return has_no_room(file) ? (refusal) : next arguments;        \
    }

NEEDS_ROOM(ssize_t, write, (int file, const void *bytes, size_t size), (file, bytes, size), refuse())
NEEDS_ROOM(ssize_t, pwrite, (int file, const void *bytes, size_t size, off_t at),
           (file, bytes, size, at), refuse())
NEEDS_ROOM(ssize_t, pwrite64, (int file, const void *bytes, size_t size, off64_t at),
           (file, bytes, size, at), refuse())
NEEDS_ROOM(ssize_t, writev, (int file, const struct iovec *parts, int count),
           (file, parts, count), refuse())
NEEDS_ROOM(ssize_t, pwritev, (int file, const struct iovec *parts, int count, off_t at),
           (file, parts, count, at), refuse())
NEEDS_ROOM(ssize_t, pwritev64, (int file, const struct iovec *parts, int count, off64_t at),
           (file, parts, count, at), refuse())
NEEDS_ROOM(int, fallocate, (int file, int mode, off_t at, off_t size),
           (file, mode, at, size), refuse())
NEEDS_ROOM(int, fallocate64, (int file, int mode, off64_t at, off64_t size),
           (file, mode, at, size), refuse())
NEEDS_ROOM(int, posix_fallocate, (int file, off_t at, off_t size), (file, at, size), ENOSPC)
NEEDS_ROOM(int, posix_fallocate64, (int file, off64_t at, off64_t size), (file, at, size), ENOSPC)
