/*
 * A disk that fails on request: put before libc by LD_PRELOAD, it makes calls on files whose path
 * holds a given text fail, act short or be interrupted, and moves the wall clock.
 *
 * The orders lie in a file that the test writes and this library maps (OTTLA_FAULTS names it). Each
 * order stands in a slot of its own; the first that fits a call is carried out and counted.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The layout that integration-tests/durability/shim.rs writes, little-endian. */
enum { SLOTS = 15, PATH_BYTES = 232 };
enum call { WRITE = 1, SYNC = 2, OPEN = 4, TRUNCATE = 8, RENAME = 16, UNLINK = 32, READ = 64 };

struct order {
    _Atomic int32_t calls; /* a set of calls; 0: an empty slot */
    int32_t error;         /* what errno becomes; 0: act short */
    _Atomic int32_t left;  /* how often yet; below 0: for ever */
    _Atomic int32_t done;  /* how often it was carried out */
    int64_t bytes;         /* of a short write; below 0: half */
    char path[PATH_BYTES]; /* part of the path, and nothing else follows the NUL */
};

struct orders {
    _Atomic int64_t wall_ms; /* by how much the wall clock is off */
    char unused[248];
    struct order slots[SLOTS];
};

_Static_assert(sizeof(struct order) == 256, "the test writes slots of 256 bytes");
_Static_assert(sizeof(struct orders) == 4096, "the test writes one page");

static struct orders *orders;

static void *real(const char *name) {
    void *symbol = dlsym(RTLD_NEXT, name);
    if (symbol == NULL) {
        fprintf(stderr, "faults.c: libc has no %s\n", name);
        abort();
    }
    return symbol;
}

#define REAL(result, name, ...)                               \
    static result (*real_##name)(__VA_ARGS__);                \
    if (real_##name == NULL) real_##name = real(#name)

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("OTTLA_FAULTS");
    if (path == NULL) return;
    REAL(int, open64, const char *, int, ...);
    int file = real_open64(path, O_RDWR | O_CLOEXEC);
    void *page = file < 0 ? MAP_FAILED
                          : mmap(NULL, sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) {
        perror("faults.c: OTTLA_FAULTS cannot be mapped");
        abort();
    }
    close(file);
    orders = page;
}

/* The order for a call on `path`, counted; NULL: the call is to be done as asked. */
static struct order *ordered(enum call call, const char *path) {
    for (int at = 0; at < SLOTS; at++) {
        struct order *order = &orders->slots[at];
        if ((order->calls & call) == 0 || strstr(path, order->path) == NULL) continue;
        int32_t left = order->left;
        while (left > 0 && !atomic_compare_exchange_weak(&order->left, &left, left - 1)) {
        }
        if (left == 0) continue;
        atomic_fetch_add(&order->done, 1);
        return order;
    }
    return NULL;
}

/* Whether any slot is about such calls: most are done as asked, and fast. */
static int is_ordered(enum call call) {
    if (orders == NULL) return 0;
    for (int at = 0; at < SLOTS; at++)
        if ((orders->slots[at].calls & call) != 0 && orders->slots[at].left != 0) return 1;
    return 0;
}

static struct order *ordered_of_file(enum call call, int file) {
    if (!is_ordered(call)) return NULL;
    int before = errno;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0) return NULL;
    path[length] = '\0';
    return ordered(call, path);
}

static struct order *ordered_of_path(enum call call, const char *path) {
    return is_ordered(call) ? ordered(call, path) : NULL;
}

static int fails(const struct order *order) {
    if (order == NULL) return 0;
    errno = order->error;
    return 1;
}

/* How many of `count` bytes a short call may take: at least one, or it would say "the end". */
static size_t cut(const struct order *order, size_t count) {
    size_t some = order->bytes < 0 ? count / 2 : (size_t)order->bytes;
    if (some > count) some = count;
    return some == 0 && count > 0 ? 1 : some;
}

#define SHORTENED(call, file, count)                          \
    struct order *order = ordered_of_file(call, file);        \
    if (order != NULL && order->error != 0) {                 \
        errno = order->error;                                 \
        return -1;                                            \
    }                                                         \
    if (order != NULL) count = cut(order, count)

ssize_t write(int file, const void *bytes, size_t count) {
    REAL(ssize_t, write, int, const void *, size_t);
    SHORTENED(WRITE, file, count);
    return real_write(file, bytes, count);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    SHORTENED(WRITE, file, count);
    return real_pwrite64(file, bytes, count, at);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) {
    return pwrite64(file, bytes, count, at);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (fails(ordered_of_file(WRITE, file))) return -1;
    return real_writev(file, parts, count);
}

ssize_t pread64(int file, void *bytes, size_t count, off64_t at) {
    REAL(ssize_t, pread64, int, void *, size_t, off64_t);
    SHORTENED(READ, file, count);
    return real_pread64(file, bytes, count, at);
}

int fsync(int file) {
    REAL(int, fsync, int);
    return fails(ordered_of_file(SYNC, file)) ? -1 : real_fsync(file);
}

int fdatasync(int file) {
    REAL(int, fdatasync, int);
    return fails(ordered_of_file(SYNC, file)) ? -1 : real_fdatasync(file);
}

int ftruncate64(int file, off64_t length) {
    REAL(int, ftruncate64, int, off64_t);
    return fails(ordered_of_file(TRUNCATE, file)) ? -1 : real_ftruncate64(file, length);
}

#define MODE(flags)                                           \
    mode_t mode = 0;                                          \
    if (((flags) & (O_CREAT | O_TMPFILE)) != 0) {             \
        va_list rest;                                         \
        va_start(rest, flags);                                \
        mode = va_arg(rest, mode_t);                          \
        va_end(rest);                                         \
    }

int open64(const char *path, int flags, ...) {
    REAL(int, open64, const char *, int, ...);
    MODE(flags);
    return fails(ordered_of_path(OPEN, path)) ? -1 : real_open64(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    REAL(int, open, const char *, int, ...);
    MODE(flags);
    return fails(ordered_of_path(OPEN, path)) ? -1 : real_open(path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    REAL(int, openat64, int, const char *, int, ...);
    MODE(flags);
    return fails(ordered_of_path(OPEN, path)) ? -1 : real_openat64(folder, path, flags, mode);
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    return fails(ordered_of_path(RENAME, from)) ? -1 : real_rename(from, to);
}

int unlink(const char *path) {
    REAL(int, unlink, const char *);
    return fails(ordered_of_path(UNLINK, path)) ? -1 : real_unlink(path);
}

int unlinkat(int folder, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    /* As Rust removes a folder: by its open handle, and the names in it. */
    struct order *order = folder == AT_FDCWD ? ordered_of_path(UNLINK, path)
                                             : ordered_of_file(UNLINK, folder);
    return fails(order) ? -1 : real_unlinkat(folder, path, flags);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int failed = real_clock_gettime(clock, now);
    if (failed == 0 && clock == CLOCK_REALTIME && orders != NULL) {
        int64_t off = orders->wall_ms, nanos = now->tv_nsec + off % 1000 * 1000000;
        now->tv_sec += off / 1000 + (nanos < 0 ? -1 : nanos >= 1000000000 ? 1 : 0);
        now->tv_nsec = (nanos % 1000000000 + 1000000000) % 1000000000;
    }
    return failed;
}
