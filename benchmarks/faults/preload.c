/* Loaded before the C library: counts the file-system calls of a process under one folder, and lets the n-th one fail.
 *
 *   arm(folder, n, how, error, kinds, log)
 *   how: 0 count only, 1 fail once, 2 SIGKILL before, 3 SIGKILL after, 4 write half, 5 fail from the n-th on,
 *        6 SIGTERM before, 7 SIGINT before
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum kind { OPEN_WRITE, WRITE, FSYNC, RENAME, MKDIR, RMDIR, UNLINK, RESIZE, CLOSE, LOCK, OPEN_READ, READ, MAP };
static const char *const names[] = {"open-write", "write", "fsync", "rename", "mkdir", "rmdir", "unlink",
                                    "resize", "close", "lock", "open-read", "read", "map"};
enum verdict { GO_ON, FAIL, KILL_AFTER, HALF };

static char folder[PATH_MAX];
static size_t length;
static atomic_long seen;
static long target;
static int how, error_number, log_file = -1;
static unsigned long kinds;
static __thread int inside;

void arm(const char *where, long n, int mode, int error, unsigned long mask, const char *log) {
  length = 0;
  snprintf(folder, sizeof folder, "%s", where);
  seen = 0; target = n; how = mode; error_number = error; kinds = mask;
  if (log_file >= 0) syscall(SYS_close, log_file);
  log_file = *log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC, 0644) : -1;
  length = strlen(folder);
}

long count(void) { return seen; }

static int of_descriptor(int descriptor, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t size = readlink(link, path, PATH_MAX - 1);
  path[size < 0 ? 0 : size] = 0;
  return size > 0;
}

static enum verdict meet(enum kind kind, int at, const char *path, int descriptor) {
  if (!length || inside || !(kinds >> kind & 1)) return GO_ON;
  char whole[2 * PATH_MAX + 2], base[PATH_MAX];
  inside = 1;
  if (!path) { if (!of_descriptor(descriptor, whole)) whole[0] = 0; }
  else if (*path == '/') snprintf(whole, sizeof whole, "%s", path);
  else {
    if (at == AT_FDCWD ? !getcwd(base, sizeof base) : !of_descriptor(at, base)) base[0] = 0;
    snprintf(whole, sizeof whole, "%s/%s", base, path);
  }
  enum verdict verdict = GO_ON;
  if (strncmp(whole, folder, length) == 0) {
    long number = atomic_fetch_add(&seen, 1) + 1;
    if (log_file >= 0) {
      char line[2 * PATH_MAX + 64];
      int size = snprintf(line, sizeof line, "%ld %s %s\n", number, names[kind], whole);
      syscall(SYS_write, log_file, line, size);
    }
    if (target > 0 && (number == target || (how == 5 && number > target))) switch (how) {
      case 1: case 5: verdict = FAIL; break;
      case 2: syscall(SYS_kill, getpid(), SIGKILL); break;
      case 3: verdict = KILL_AFTER; break;
      case 4: verdict = HALF; break;
      case 6: syscall(SYS_kill, getpid(), SIGTERM); break;
      case 7: syscall(SYS_kill, getpid(), SIGINT); break;
    }
  }
  inside = 0;
  return verdict;
}

static void leave(enum verdict verdict) { if (verdict == KILL_AFTER) syscall(SYS_kill, getpid(), SIGKILL); }

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, #name)
#define WRAP(type, name, kind, at, path, descriptor, failed, arguments, values)                 \
  type name arguments {                                                                           \
    static type(*real) arguments; if (!real) real = dlsym(RTLD_NEXT, #name);                      \
    enum verdict verdict = meet(kind, at, path, descriptor);                                      \
    if (verdict == FAIL) { errno = error_number; return failed; }                                 \
    type value = real values; leave(verdict); return value; }

static enum kind opening(int flags) { return flags & (O_WRONLY | O_RDWR | O_CREAT) ? OPEN_WRITE : OPEN_READ; }
#define OPEN(name)                                                                                \
  int name(const char *path, int flags, ...) {                                                    \
    REAL(int, name, const char *, int, ...); mode_t mode = 0;                                     \
    if (flags & O_CREAT) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); } \
    enum verdict verdict = meet(opening(flags), AT_FDCWD, path, -1);                              \
    if (verdict == FAIL) { errno = error_number; return -1; }                                     \
    int value = real(path, flags, mode); leave(verdict); return value; }
#define OPEN_AT(name)                                                                             \
  int name(int at, const char *path, int flags, ...) {                                            \
    REAL(int, name, int, const char *, int, ...); mode_t mode = 0;                                \
    if (flags & O_CREAT) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); } \
    enum verdict verdict = meet(opening(flags), at, path, -1);                                    \
    if (verdict == FAIL) { errno = error_number; return -1; }                                     \
    int value = real(at, path, flags, mode); leave(verdict); return value; }
#define STREAM(name)                                                                              \
  FILE *name(const char *path, const char *mode) {                                                \
    REAL(FILE *, name, const char *, const char *);                                               \
    enum verdict verdict = meet(strpbrk(mode, "wa+") ? OPEN_WRITE : OPEN_READ, AT_FDCWD, path, -1); \
    if (verdict == FAIL) { errno = error_number; return NULL; }                                   \
    FILE *value = real(path, mode); leave(verdict); return value; }

OPEN(open) OPEN(open64) OPEN_AT(openat) OPEN_AT(openat64) STREAM(fopen) STREAM(fopen64)

ssize_t write(int to, const void *bytes, size_t size) {
  REAL(ssize_t, write, int, const void *, size_t);
  enum verdict verdict = meet(WRITE, 0, NULL, to);
  if (verdict == FAIL) { errno = error_number; return -1; }
  ssize_t value = real(to, bytes, verdict == HALF && size > 1 ? size / 2 : size); leave(verdict); return value;
}
#define WRITE_AT(name)                                                                            \
  ssize_t name(int to, const void *bytes, size_t size, off64_t place) {                           \
    REAL(ssize_t, name, int, const void *, size_t, off64_t);                                      \
    enum verdict verdict = meet(WRITE, 0, NULL, to);                                              \
    if (verdict == FAIL) { errno = error_number; return -1; }                                     \
    ssize_t value = real(to, bytes, verdict == HALF && size > 1 ? size / 2 : size, place); leave(verdict); return value; }
WRITE_AT(pwrite) WRITE_AT(pwrite64)
WRAP(ssize_t, writev, WRITE, 0, NULL, to, -1, (int to, const struct iovec *parts, int n), (to, parts, n))
size_t fwrite(const void *bytes, size_t size, size_t n, FILE *file) {
  REAL(size_t, fwrite, const void *, size_t, size_t, FILE *);
  enum verdict verdict = meet(WRITE, 0, NULL, fileno(file));
  if (verdict == FAIL) { errno = error_number; return 0; }
  size_t value = real(bytes, size, n, file); leave(verdict); return value;
}
WRAP(ssize_t, sendfile, WRITE, 0, NULL, to, -1, (int to, int from, off_t *place, size_t n), (to, from, place, n))
WRAP(ssize_t, sendfile64, WRITE, 0, NULL, to, -1, (int to, int from, off64_t *place, size_t n), (to, from, place, n))
WRAP(int, fsync, FSYNC, 0, NULL, file, -1, (int file), (file))
WRAP(int, fdatasync, FSYNC, 0, NULL, file, -1, (int file), (file))
WRAP(int, rename, RENAME, AT_FDCWD, from, -1, -1, (const char *from, const char *to), (from, to))
WRAP(int, renameat, RENAME, a, from, -1, -1, (int a, const char *from, int b, const char *to), (a, from, b, to))
WRAP(int, renameat2, RENAME, a, from, -1, -1, (int a, const char *from, int b, const char *to, unsigned flags), (a, from, b, to, flags))
WRAP(int, mkdir, MKDIR, AT_FDCWD, path, -1, -1, (const char *path, mode_t mode), (path, mode))
WRAP(int, mkdirat, MKDIR, at, path, -1, -1, (int at, const char *path, mode_t mode), (at, path, mode))
WRAP(int, rmdir, RMDIR, AT_FDCWD, path, -1, -1, (const char *path), (path))
WRAP(int, unlink, UNLINK, AT_FDCWD, path, -1, -1, (const char *path), (path))
WRAP(int, unlinkat, UNLINK, at, path, -1, -1, (int at, const char *path, int flags), (at, path, flags))
WRAP(int, ftruncate, RESIZE, 0, NULL, file, -1, (int file, off_t size), (file, size))
WRAP(int, ftruncate64, RESIZE, 0, NULL, file, -1, (int file, off64_t size), (file, size))
WRAP(int, posix_fallocate, RESIZE, 0, NULL, file, error_number, (int file, off_t from, off_t size), (file, from, size))
WRAP(int, posix_fallocate64, RESIZE, 0, NULL, file, error_number, (int file, off64_t from, off64_t size), (file, from, size))
WRAP(int, flock, LOCK, 0, NULL, file, -1, (int file, int operation), (file, operation))
WRAP(ssize_t, read, READ, 0, NULL, from, -1, (int from, void *bytes, size_t size), (from, bytes, size))
int close(int file) {
  REAL(int, close, int);
  enum verdict verdict = meet(CLOSE, 0, NULL, file);
  int value = real(file);
  if (verdict == FAIL) { errno = error_number; return -1; }
  leave(verdict); return value;
}
#define MAP_FILE_CALL(name, offset_type)                                                          \
  void *name(void *at, size_t size, int protection, int flags, int file, offset_type from) {      \
    REAL(void *, name, void *, size_t, int, int, int, offset_type);                               \
    enum verdict verdict = file >= 0 ? meet(MAP, 0, NULL, file) : GO_ON;                          \
    if (verdict == FAIL) { errno = error_number; return (void *)-1; }                             \
    void *value = real(at, size, protection, flags, file, from); leave(verdict); return value; }
MAP_FILE_CALL(mmap, off_t) MAP_FILE_CALL(mmap64, off64_t)
