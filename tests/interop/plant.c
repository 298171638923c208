/* What is planted in the guests whose kernels are read: each role is a process, and the
 * role `report` prints what the guest's own kernel says of all of them.
 *
 * A report is made of items: a line "@@ PATH LENGTH", that many bytes, a newline. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { PORT = 4711, PORT6 = 4712, UDP_PORT = 5353 };

static const char SECRET[] = "savefmt: a canary across two pages";

static void must(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

/* Tell the script that this role is ready, then wait for good. */
static void stay(const char *role)
{
    char path[64];

    snprintf(path, sizeof path, "/run/%s.ready", role);
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    for (;;) {
        pause();
    }
}

static int bound(int family, int type, const void *address, socklen_t length)
{
    int fd = socket(family, type, 0);

    must(fd >= 0, "socket");
    must(bind(fd, address, length) == 0, "bind");
    return fd;
}

static void serve(void)
{
    struct sockaddr_in ip4 = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    struct sockaddr_in udp = {.sin_family = AF_INET, .sin_port = htons(UDP_PORT)};
    struct sockaddr_in6 ip6 = {.sin6_family = AF_INET6, .sin6_port = htons(PORT6)};
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/run/canary.sock"};

    ip4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ip6.sin6_addr = in6addr_loopback;
    int fd = bound(AF_INET, SOCK_STREAM, &ip4, sizeof ip4);
    must(listen(fd, 4) == 0, "listen");
    must(listen(bound(AF_INET6, SOCK_STREAM, &ip6, sizeof ip6), 4) == 0, "listen");
    must(listen(bound(AF_UNIX, SOCK_STREAM, &name, sizeof name), 4) == 0, "listen");
    bound(AF_INET, SOCK_DGRAM, &udp, sizeof udp);
    close(open("/run/server.bound", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    must(accept(fd, NULL, NULL) >= 0, "accept");
    stay("server");
}

static void call(void)
{
    struct sockaddr_in ip4 = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    ip4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    must(fd >= 0 && connect(fd, (void *)&ip4, sizeof ip4) == 0, "connect");
    stay("client");
}

/* Memory that is writable and executable, a deleted file, and a text whose halves lie in
 * pages that are far from each other in physical memory. */
static void lurk(void)
{
    long page = sysconf(_SC_PAGESIZE);
    char *code = mmap(NULL, (size_t)page * 3, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *pages = mmap(NULL, (size_t)page * 2, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *between = mmap(NULL, (size_t)page * 64, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fd = open("/tmp/gone", O_CREAT | O_RDWR | O_CLOEXEC, 0600);

    must(code != MAP_FAILED && pages != MAP_FAILED && between != MAP_FAILED, "mmap");
    strcpy(code, "\x90\x90savefmt: shellcode");
    pages[page] = 0;                                        /* the second page first, */
    memset(between, 1, (size_t)page * 64);                  /* then others, */
    strcpy(pages + page - (long)sizeof SECRET / 2, SECRET); /* then the one before it */
    must(fd >= 0 && write(fd, SECRET, sizeof SECRET) == sizeof SECRET, "write");
    must(unlink("/tmp/gone") == 0, "unlink");
    must(setgid(1001) == 0 && setuid(1000) == 0, "setuid");
    for (;;) {
        pause();
    }
}

static void item(const char *path, const char *data, size_t length)
{
    printf("@@ %s %zu\n", path, length);
    fwrite(data, 1, length, stdout);
    putchar('\n');
}

static void show(const char *path)
{
    static char data[1 << 20];
    size_t length = 0;
    ssize_t got;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0) {
        return;
    }
    while (length < sizeof data &&
           (got = read(fd, data + length, sizeof data - length)) > 0) {
        length += (size_t)got;
    }
    close(fd);
    item(path, data, length);
}

static void show_link(const char *path)
{
    char target[4096];
    ssize_t length = readlink(path, target, sizeof target);

    if (length >= 0) {
        item(path, target, (size_t)length);
    }
}

static void show_links(const char *folder)
{
    DIR *entries = opendir(folder);
    struct dirent *entry;
    char path[512];

    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        if (entry->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            show_link(path);
        }
    }
    if (entries != NULL) {
        closedir(entries);
    }
}

static void show_process(const char *number)
{
    static const char *const names[] = {"stat", "status",    "cmdline", "environ",
                                        "maps", "mountinfo", "cgroup"};
    char path[512];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "/proc/%s/%s", number, names[i]);
        show(path);
    }
    snprintf(path, sizeof path, "/proc/%s/exe", number);
    show_link(path);
    snprintf(path, sizeof path, "/proc/%s/fd", number);
    show_links(path);
    snprintf(path, sizeof path, "/proc/%s/ns", number);
    show_links(path);
}

static void report(void)
{
    static const char *const names[] = {
        "/proc/version",  "/proc/cmdline",  "/proc/modules",  "/proc/uptime",
        "/proc/net/tcp",  "/proc/net/tcp6", "/proc/net/udp",  "/proc/net/unix",
        "/proc/net/dev",  "/proc/meminfo",  "/proc/sys/kernel/hostname",
        "/proc/net/route"};
    DIR *entries = opendir("/proc");
    struct dirent *entry;

    must(entries != NULL, "/proc");
    while ((entry = readdir(entries)) != NULL) {
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9') {
            show_process(entry->d_name);
        }
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        show(names[i]);
    }
    closedir(entries);
}

int main(int count, char **arguments)
{
    const char *role = count > 1 ? arguments[1] : "report";

    if (strcmp(role, "server") == 0) {
        serve();
    } else if (strcmp(role, "client") == 0) {
        call();
    } else if (strcmp(role, "lurker") == 0) {
        lurk();
    } else {
        report();
    }
    return 0;
}
