// sandbox-pause: holds the namespaces of one local pod or virtual node, and starts processes inside them.
//
//   sandbox-pause hold --hostname NAME [--pod] [--sysctl KEY=VALUE].. [--bind SOURCE:TARGET].. [--hide DIRECTORY]..
//                      [--show SOURCE:TARGET].. [--share SOURCE:TARGET].. [--ip LINES] [--outer-netns PATH --outer-ip LINES]
//   sandbox-pause enter --target PID [--session] [--cwd DIR] [--uid N] [--gid N] [--caps HEX] [--no-new-privs] -- COMMAND..
//
// `hold` writes "pid N", waits for a line on stdin (so that whoever asked has noted N first; end of file undoes
// everything), sets the namespaces up, runs the lines with `ip -batch` in the new network namespace and then in the outer
// one, and writes "ready N". Process N then stays for good: it outlives whoever started
// it, ignores all signals that can be ignored, and needs no descriptor. Killing it frees every link, route, mount and,
// with --pod, ends every process of the pod. Nothing has a name in /run/netns, so nothing else can leak.
//
// `--show` makes a directory of the host visible at a place directly below a hidden one, read-only; `--share` with writing.
//
// `enter` runs one command in those namespaces, passes signals on and exits as the command did (128 + signal).
// It must never change anything in the namespaces of the caller.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_LIST 64

struct list {
  const char *items[MAX_LIST];
  int count;
};

struct options {
  const char *hostname, *cwd, *ip, *outer_netns, *outer_ip;
  struct list sysctls, binds, hides, shows, shares;
  bool is_pod, is_session, no_new_privs, has_caps, has_uid, has_gid;
  long target, uid, gid;
  unsigned long long caps;
  char **command;
};

static void die(const char *format, ...) {
  const int error = errno;
  va_list args;
  va_start(args, format);
  fprintf(stderr, "sandbox-pause: ");
  vfprintf(stderr, format, args);
  va_end(args);
  if (error) fprintf(stderr, ": %s", strerror(error));
  fprintf(stderr, "\n");
  exit(125);
}

static long number(const char *text) {
  char *end = NULL;
  errno = 0;
  const long value = strtol(text, &end, 10);
  if (errno || end == text || *end || value < 0) die("not a number: %s", text);
  return value;
}

static void push(struct list *list, const char *item) {
  if (list->count == MAX_LIST) die("more than %d of one option", MAX_LIST);
  list->items[list->count++] = item;
}

static struct options parse(int argc, char **argv) {
  struct options o = {.cwd = "/"};
  for (int i = 2; i < argc; i++) {
    const char *name = argv[i];
    if (!strcmp(name, "--")) { o.command = argv + i + 1; break; }
    if (!strcmp(name, "--pod")) { o.is_pod = true; continue; }
    if (!strcmp(name, "--session")) { o.is_session = true; continue; }
    if (!strcmp(name, "--no-new-privs")) { o.no_new_privs = true; continue; }
    if (i + 1 == argc) { errno = 0; die("%s is unknown or needs a value", name); }
    const char *value = argv[++i];
    if (!strcmp(name, "--hostname")) o.hostname = value;
    else if (!strcmp(name, "--sysctl")) push(&o.sysctls, value);
    else if (!strcmp(name, "--bind")) push(&o.binds, value);
    else if (!strcmp(name, "--hide")) push(&o.hides, value);
    else if (!strcmp(name, "--show")) push(&o.shows, value);
    else if (!strcmp(name, "--share")) push(&o.shares, value);
    else if (!strcmp(name, "--ip")) o.ip = value;
    else if (!strcmp(name, "--outer-netns")) o.outer_netns = value;
    else if (!strcmp(name, "--outer-ip")) o.outer_ip = value;
    else if (!strcmp(name, "--target")) o.target = number(value);
    else if (!strcmp(name, "--cwd")) o.cwd = value;
    else if (!strcmp(name, "--uid")) { o.uid = number(value); o.has_uid = true; }
    else if (!strcmp(name, "--gid")) { o.gid = number(value); o.has_gid = true; }
    else if (!strcmp(name, "--caps")) { o.caps = strtoull(value, NULL, 16); o.has_caps = true; }
    else { errno = 0; die("unknown option %s", name); }
  }
  return o;
}

static void bring_lo_up(void) {
  struct ifreq request = {.ifr_name = "lo"};
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  if (ioctl(fd, SIOCGIFFLAGS, &request) < 0) die("reading the flags of lo");
  request.ifr_flags |= IFF_UP;
  if (ioctl(fd, SIOCSIFFLAGS, &request) < 0) die("bringing lo up");
  close(fd);
}

// /proc/sys/net shows the network namespace of whoever opens it, so this is the new one. KEY is a path below /proc/sys.
static void set_sysctl(const char *setting) {
  const char *equals = strchr(setting, '=');
  char path[256];
  if (!equals) { errno = 0; die("sysctl without a value: %s", setting); }
  snprintf(path, sizeof path, "/proc/sys/%.*s", (int)(equals - setting), setting);
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) die("opening %s", path);
  const size_t length = strlen(equals + 1);
  if (write(fd, equals + 1, length) != (ssize_t)length) die("writing %s", path);
  close(fd);
}

// SOURCE:TARGET; gives TARGET.
static const char *split(const char *pair, char source[4096]) {
  const char *colon = strchr(pair, ':');
  if (!colon || colon - pair >= 4096) { errno = 0; die("not SOURCE:TARGET: %s", pair); }
  memcpy(source, pair, (size_t)(colon - pair));
  source[colon - pair] = 0;
  return colon + 1;
}

static void bind_file(const char *pair) {
  char source[4096];
  const char *target = split(pair, source);
  // A machine without, say, /etc/hosts has no place to mount on, and making one would change the host.
  struct stat info;
  if (stat(target, &info) < 0 && errno == ENOENT) return;
  if (mount(source, target, NULL, MS_BIND, NULL) < 0) die("mounting %s", pair);
}

static const unsigned long guarded = MS_NOSUID | MS_NODEV | MS_NOEXEC;

// An empty directory in front of one that pods have no business in; seal_directory makes it read-only.
static void hide_directory(const char *path) {
  struct stat info;
  if (stat(path, &info) < 0 && errno == ENOENT) return;
  if (mount("sidestep-hidden", path, "tmpfs", guarded, "size=4k,mode=0500") < 0) die("hiding %s", path);
}

static void seal_directory(const char *path) {
  struct stat info;
  if (stat(path, &info) < 0 && errno == ENOENT) return;
  if (mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY | guarded, "size=4k,mode=0500") < 0) die("sealing %s", path);
}

// Opened while it can still be seen: the place where it is may be hidden in a moment.
static int open_source(const char *pair) {
  char source[4096];
  split(pair, source);
  const int fd = open(source, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) die("opening %s", source);
  return fd;
}

static void show_directory(int fd, const char *pair, unsigned long more) {
  char ignored[4096], opened[64];
  const char *target = split(pair, ignored);
  snprintf(opened, sizeof opened, "/proc/self/fd/%d", fd);
  if (mkdir(target, 0700) < 0) die("making %s", target);
  if (mount(opened, target, NULL, MS_BIND, NULL) < 0) die("showing %s", pair);
  if (mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | guarded | more, NULL) < 0) die("guarding %s", target);
  close(fd);
}

static void set_up(const struct options *o) {
  if (sethostname(o->hostname, strlen(o->hostname)) < 0) die("sethostname");
  bring_lo_up();
  for (int i = 0; i < o->sysctls.count; i++) set_sysctl(o->sysctls.items[i]);
  if (!o->is_pod) return;
  // Slave rather than private: our mounts never reach the host, but what the host unmounts goes away here too,
  // so that a running pod does not keep somebody's file system busy.
  if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) die("making mounts slave");
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0) die("mounting /proc");
  for (int i = 0; i < o->binds.count; i++) bind_file(o->binds.items[i]);
  int shown[MAX_LIST], shared[MAX_LIST];
  for (int i = 0; i < o->shows.count; i++) shown[i] = open_source(o->shows.items[i]);
  for (int i = 0; i < o->shares.count; i++) shared[i] = open_source(o->shares.items[i]);
  for (int i = 0; i < o->hides.count; i++) hide_directory(o->hides.items[i]);
  for (int i = 0; i < o->shows.count; i++) show_directory(shown[i], o->shows.items[i], MS_RDONLY);
  for (int i = 0; i < o->shares.count; i++) show_directory(shared[i], o->shares.items[i], 0);
  for (int i = 0; i < o->hides.count; i++) seal_directory(o->hides.items[i]);
}

static void detach_stdio(void) {
  const int null = open("/dev/null", O_RDWR);
  if (null < 0) die("/dev/null");
  for (int fd = 0; fd <= 2; fd++) dup2(null, fd);
  syscall(SYS_close_range, 3U, ~0U, 0U);
}

// `ip` runs as our child, in the host's PID namespace, so that pids in the lines mean what the caller means.
static bool run_ip(const char *netns, const char *lines) {
  int input[2];
  if (pipe2(input, O_CLOEXEC) < 0) return false;
  const pid_t child = fork();
  if (child == 0) {
    const int fd = open(netns, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || setns(fd, CLONE_NEWNET) < 0) die("entering %s", netns);
    if (dup2(input[0], STDIN_FILENO) < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) die("dup2");
    execlp("ip", "ip", "-batch", "-", (char *)NULL);
    die("running ip");
  }
  close(input[0]);
  const size_t length = strlen(lines);
  signal(SIGPIPE, SIG_IGN);  // ip may end at the first bad line; its exit code tells
  const bool is_written = child > 0 && write(input[1], lines, length) == (ssize_t)length;
  close(input[1]);
  int status = -1;
  while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  return is_written && status == 0;
}

static int hold(const struct options *o) {
  int go[2], ready[2];
  if (!o->hostname || (o->outer_ip && !o->outer_netns)) { errno = 0; die("--hostname or --outer-netns is missing"); }
  if (pipe2(go, O_CLOEXEC) < 0 || pipe2(ready, O_CLOEXEC) < 0) die("pipe");
  const unsigned long flags = CLONE_NEWNET | CLONE_NEWUTS | (o->is_pod ? CLONE_NEWNS | CLONE_NEWPID : 0);
  const long pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
  if (pid < 0) die("clone");
  char byte = 0;
  if (pid == 0) {
    close(go[1]);
    close(ready[0]);
    if (read(go[0], &byte, 1) != 1) _exit(1);
    setsid();
    if (chdir("/") < 0) die("chdir");
    set_up(o);
    for (int sig = 1; sig < NSIG; sig++) signal(sig, SIG_IGN);  // SIGCHLD ignored: orphans are reaped by the kernel
    if (write(ready[1], "r", 1) != 1) _exit(1);
    detach_stdio();
    for (;;) pause();
  }
  close(go[0]);
  close(ready[1]);
  printf("pid %ld\n", pid);
  fflush(stdout);
  if (read(STDIN_FILENO, &byte, 1) != 1) return 1;  // the child sees its pipe close and ends
  if (write(go[1], "g", 1) != 1) die("starting");
  if (read(ready[0], &byte, 1) != 1) return 125;  // the child has said why on stderr
  char own_netns[64];
  snprintf(own_netns, sizeof own_netns, "/proc/%ld/ns/net", pid);
  if ((o->ip && !run_ip(own_netns, o->ip)) || (o->outer_ip && !run_ip(o->outer_netns, o->outer_ip))) {
    kill((pid_t)pid, SIGKILL);
    return 125;
  }
  printf("ready %ld\n", pid);
  fflush(stdout);
  return 0;
}

static pid_t entered;

static void pass_on(int sig) {
  if (entered > 0) kill(entered, sig);
}

static void enter_namespaces(long target) {
  static const char *const names[] = {"net", "uts", "pid", "mnt"};
  int fds[4];
  for (int i = 0; i < 4; i++) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/ns/%s", target, names[i]);
    fds[i] = open(path, O_RDONLY | O_CLOEXEC);
    if (fds[i] < 0) die("opening %s", path);
  }
  for (int i = 0; i < 4; i++) {
    if (setns(fds[i], 0) < 0) die("entering %s of %ld", names[i], target);
    close(fds[i]);
  }
}

static void limit_privileges(const struct options *o) {
  if (o->has_caps) {
    for (int cap = 0; cap < 64; cap++) {
      if ((o->caps >> cap & 1) == 0 && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
        die("dropping capability %d", cap);
    }
  }
  if (o->has_gid || o->has_uid) {
    if (setgroups(0, NULL) < 0) die("setgroups");
    if (o->has_gid && setresgid((gid_t)o->gid, (gid_t)o->gid, (gid_t)o->gid) < 0) die("setresgid");
    if (o->has_uid && setresuid((uid_t)o->uid, (uid_t)o->uid, (uid_t)o->uid) < 0) die("setresuid");
  }
  if (o->has_caps) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (syscall(SYS_capget, &header, data) < 0) die("capget");
    data[0].inheritable = data[1].inheritable = 0;
    if (syscall(SYS_capset, &header, data) < 0) die("capset");
  }
  if (o->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) die("no_new_privs");
}

static int enter(const struct options *o) {
  if (!o->target || !o->command || !o->command[0]) { errno = 0; die("--target and a command are needed"); }
  enter_namespaces(o->target);
  static const int signals[] = {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGINT, SIGQUIT};
  // On a terminal, INT and QUIT reach the command directly; passing them on would deliver them twice.
  const size_t count = o->is_session ? 6 : 4;
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, &before);  // until `entered` is known
  entered = fork();
  if (entered < 0) die("fork");
  if (entered == 0) {
    if (o->is_session) setsid();
    if (chdir(o->cwd) < 0) die("entering the working directory %s", o->cwd);
    limit_privileges(o);
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // last: a change of user id clears it
    sigprocmask(SIG_SETMASK, &before, NULL);
    execvp(o->command[0], o->command);
    const int code = errno == ENOENT ? 127 : 126;
    fprintf(stderr, "sandbox-pause: cannot run %s: %s\n", o->command[0], strerror(errno));
    _exit(code);
  }
  for (size_t i = 0; i < count; i++) signal(signals[i], pass_on);
  if (!o->is_session) {
    signal(SIGINT, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
  }
  sigprocmask(SIG_SETMASK, &before, NULL);
  if (o->is_session) detach_stdio();  // or a container's pipes would stay open through us
  if (o->is_session) {
    // What the command started ends with it, as in a container. Before it is reaped, or its number could be another's.
    siginfo_t info;
    while (waitid(P_PID, (id_t)entered, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR) {}
    kill(-entered, SIGKILL);
  }
  int status = 0;
  while (waitpid(entered, &status, 0) < 0)
    if (errno != EINTR) return 125;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int argc, char **argv) {
  // Descriptors that the caller forgot to close must not live as long as a pod.
  syscall(SYS_close_range, 3U, ~0U, 0U);
  if (argc > 1 && !strcmp(argv[1], "hold")) {
    const struct options o = parse(argc, argv);
    return hold(&o);
  }
  if (argc > 1 && !strcmp(argv[1], "enter")) {
    const struct options o = parse(argc, argv);
    return enter(&o);
  }
  fprintf(stderr, "usage: sandbox-pause hold|enter OPTIONS (see the first lines of its source)\n");
  return 125;
}
