/* A watchdog device for one process, preloaded: the file HAGUARD_TEST_WATCHDOG behaves like
 * /dev/watchdogN, and HAGUARD_TEST_WATCHDOG.log gets a line for everything that is done to it:
 * CLOCK_BOOTTIME in milliseconds, and what. Nothing of it resets a machine, and neither can the
 * process: to open /proc/sysrq-trigger is a line too, and the end of the process, as is reboot(2). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int device = -1;
static int timeout = 60;

static void note(const char *what)
{
    char path[512], line[64];
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    snprintf(path, sizeof path, "%s.log", getenv("HAGUARD_TEST_WATCHDOG"));
    int length = snprintf(line, sizeof line, "%lld %s\n",
                          now.tv_sec * 1000LL + now.tv_nsec / 1000000, what);
    int file = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    syscall(SYS_write, file, line, length);
    syscall(SYS_close, file);
}

int open64(const char *path, int flags, ...)
{
    const char *watchdog = getenv("HAGUARD_TEST_WATCHDOG");
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    if (!strcmp(path, "/proc/sysrq-trigger")) {
        note("reboot");
        _exit(99);
    }
    if (!watchdog || strcmp(path, watchdog))
        return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    char busy[512];
    snprintf(busy, sizeof busy, "%s.busy", watchdog);
    if (!access(busy, F_OK)) {
        errno = EBUSY;
        return -1;
    }
    device = syscall(SYS_openat, AT_FDCWD, "/dev/null", O_WRONLY | O_CLOEXEC, 0);
    note("open");
    return device;
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    return open64(path, flags, mode);
}

ssize_t write(int fd, const void *bytes, size_t length)
{
    if (fd == device && device >= 0)
        note(length && *(const char *)bytes == 'V' ? "magic" : "pet");
    return syscall(SYS_write, fd, bytes, length);
}

int close(int fd)
{
    if (fd == device && device >= 0) {
        device = -1;
        note("close");
    }
    return syscall(SYS_close, fd);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (fd != device || device < 0)
        return syscall(SYS_ioctl, fd, request, argument);
    switch (request & 0xffff) {
    case 0x5700: { /* WDIOC_GETSUPPORT */
        unsigned options = 0x8180;
        memset(argument, 0, 40);
        memcpy(argument, &options, sizeof options);
        strcpy((char *)argument + 8, "preloaded");
        return 0;
    }
    case 0x5702: /* WDIOC_GETBOOTSTATUS */
    case 0x5709: /* WDIOC_GETPRETIMEOUT */
        *(int *)argument = 0;
        return 0;
    case 0x5704: /* WDIOC_SETOPTIONS */
        note("disable");
        return 0;
    case 0x5705: /* WDIOC_KEEPALIVE */
        note("pet");
        return 0;
    case 0x5706: /* WDIOC_SETTIMEOUT */
        timeout = *(int *)argument;
        return 0;
    case 0x5707: /* WDIOC_GETTIMEOUT */
        *(int *)argument = timeout;
        return 0;
    default:
        errno = EOPNOTSUPP;
        return -1;
    }
}

int reboot(int how)
{
    (void)how;
    note("reboot");
    _exit(99);
}
