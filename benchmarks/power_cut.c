/* Remembers what of the files below $POWER_ROOT was synced, for benchmarks/crashes.py.

   Loaded with LD_PRELOAD. Each fsync of a file copies its contents into $POWER_SYNCED, under the
   file's inode and birth; each fsync of a folder writes the list of its names there. After
   power_cut_after(n) the process is killed in front of its n-th operation below the root. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static long left = 0;

void power_cut_after(long operations) { left = operations; }

static int below(const char *path) {
    const char *root = getenv("POWER_ROOT");
    return root != NULL && strncmp(path, root, strlen(root)) == 0;
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return length > 0 && below(path);
}

static void count(void) {
    if (left > 0 && --left == 0) kill(getpid(), SIGKILL);
}

static void count_fd(int fd) {
    char path[PATH_MAX];
    if (left > 0 && path_of(fd, path)) count();
}

static int key_of(const char *path, char *key) {
    struct statx found;
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &found)) return 0;
    snprintf(key, 96, "%llu-%lld-%u-%c", (unsigned long long)found.stx_ino,
             (long long)found.stx_btime.tv_sec, found.stx_btime.tv_nsec,
             S_ISDIR(found.stx_mode) ? 'd' : 'f');
    return 1;
}

static void list_names(const char *folder, FILE *into) {
    DIR *open = opendir(folder);
    struct dirent *entry;
    char path[PATH_MAX], key[96];
    while (open != NULL && (entry = readdir(open)) != NULL) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (key_of(path, key)) fprintf(into, "%s %s\n", key, entry->d_name);
    }
    if (open != NULL) closedir(open);
}

static void remember(int fd) {
    char path[PATH_MAX], key[96], kept[PATH_MAX], draft[PATH_MAX], block[65536];
    if (!path_of(fd, path) || !key_of(path, key)) return;
    long before = left;
    left = 0;
    snprintf(kept, sizeof kept, "%s/%s", getenv("POWER_SYNCED"), key);
    snprintf(draft, sizeof draft, "%s.draft", kept);
    FILE *into = fopen(draft, "w");
    if (key[strlen(key) - 1] == 'd') {
        list_names(path, into);
    } else {
        FILE *from = fopen(path, "r");
        size_t read;
        while (from != NULL && (read = fread(block, 1, sizeof block, from)) > 0)
            fwrite(block, 1, read, into);
        if (from != NULL) fclose(from);
    }
    fclose(into);
    rename(draft, kept);
    left = before;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size) {
    count_fd(fd);
    return REAL(write)(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    count_fd(fd);
    return REAL(pwrite64)(fd, data, size, at);
}

int ftruncate64(int fd, off64_t size) {
    count_fd(fd);
    return REAL(ftruncate64)(fd, size);
}

int fsync(int fd) {
    count_fd(fd);
    int failed = REAL(fsync)(fd);
    if (!failed) remember(fd);
    return failed;
}

int fdatasync(int fd) {
    count_fd(fd);
    int failed = REAL(fdatasync)(fd);
    if (!failed) remember(fd);
    return failed;
}

int rename(const char *from, const char *to) {
    if (below(to)) count();
    return REAL(rename)(from, to);
}

int unlink(const char *path) {
    if (below(path)) count();
    return REAL(unlink)(path);
}
