// `probe many`: a crowd of connections at once from one process. Each may exchange a small message of its own, all may
// be held, and every failure is counted under its errno.
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "probe.h"

enum { message_limit = 48, errno_limit = 256 };

enum member_state { idle, connecting, awaiting_echo, settled, failed };

struct member {
  int fd;
  enum member_state state;
  int64_t started_ns;
  double connect_ms;
  unsigned char got;
};

struct crowd {
  struct endpoint to;
  struct member *members;
  size_t count, next, in_flight, connected, echoed, lost;
  bool echo;
  int round;
  int epoll;
  int failures[errno_limit];
};

static size_t message_for(const struct crowd *crowd, size_t index, char out[message_limit]) {
  return (size_t)snprintf(out, message_limit, "member %zu of %d round %d\n", index, getpid(), crowd->round);
}

static void fail_member(struct crowd *crowd, struct member *member, int code) {
  if (member->state == connecting || member->state == awaiting_echo) crowd->in_flight--;
  member->state = failed;
  crowd->failures[code > 0 && code < errno_limit ? code : 0]++;
  if (member->fd >= 0) close(member->fd);
  member->fd = -1;
}

static void watch(struct crowd *crowd, size_t index, int operation, uint32_t events) {
  struct epoll_event event = {.events = events, .data.u64 = index};
  epoll_ctl(crowd->epoll, operation, crowd->members[index].fd, &event);
}

static void settle(struct crowd *crowd, size_t index) {
  crowd->members[index].state = settled;
  crowd->in_flight--;
  // Hang-ups and errors are reported even to those who ask for nothing; a plain end of file must be asked for.
  watch(crowd, index, EPOLL_CTL_MOD, EPOLLRDHUP);
}

static void start_echo(struct crowd *crowd, size_t index) {
  struct member *member = &crowd->members[index];
  char message[message_limit];
  const size_t length = message_for(crowd, index, message);
  member->state = awaiting_echo;
  member->got = 0;
  member->started_ns = now_ns();
  if (send(member->fd, message, length, MSG_DONTWAIT) != (ssize_t)length) fail_member(crowd, member, errno);
  else watch(crowd, index, EPOLL_CTL_MOD, EPOLLIN);
}

static void start_connecting(struct crowd *crowd, size_t index) {
  struct member *member = &crowd->members[index];
  *member = (struct member){.state = connecting, .started_ns = now_ns()};
  crowd->in_flight++;
  member->fd = socket(crowd->to.addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const struct sockaddr *to = (const struct sockaddr *)&crowd->to.addr;
  if (member->fd < 0 || (connect(member->fd, to, crowd->to.length) != 0 && errno != EINPROGRESS)) {
    fail_member(crowd, member, errno);
    return;
  }
  watch(crowd, index, EPOLL_CTL_ADD, EPOLLOUT);
}

static void on_connected(struct crowd *crowd, size_t index) {
  struct member *member = &crowd->members[index];
  int code = 0;
  socklen_t length = sizeof code;
  if (getsockopt(member->fd, SOL_SOCKET, SO_ERROR, &code, &length) != 0) code = errno;
  if (code != 0) {
    fail_member(crowd, member, code);
    return;
  }
  member->connect_ms = elapsed_ms(member->started_ns);
  crowd->connected++;
  if (crowd->echo) start_echo(crowd, index);
  else settle(crowd, index);
}

static void on_echo(struct crowd *crowd, size_t index) {
  struct member *member = &crowd->members[index];
  char expected[message_limit];
  char got[message_limit];
  const size_t length = message_for(crowd, index, expected);
  const ssize_t count = recv(member->fd, got, length - member->got, MSG_DONTWAIT);
  if (count < 0 && errno == EAGAIN) return;
  if (count <= 0) {
    fail_member(crowd, member, count < 0 ? errno : EPIPE);
  } else if (memcmp(expected + member->got, got, (size_t)count) != 0) {
    // Somebody else's bytes.
    fail_member(crowd, member, EBADMSG);
  } else {
    member->got = (unsigned char)(member->got + count);
    if (member->got < length) return;
    crowd->echoed++;
    settle(crowd, index);
  }
}

static void time_out_members(struct crowd *crowd, int64_t timeout_ms) {
  for (size_t i = 0; i < crowd->next; i++) {
    struct member *member = &crowd->members[i];
    const bool waits = member->state == connecting || member->state == awaiting_echo;
    if (waits && elapsed_ms(member->started_ns) > (double)timeout_ms) fail_member(crowd, member, ETIMEDOUT);
  }
}

// Runs until everybody has settled or failed and no news is left. Connects those who have not begun, at most `burst` at a time.
static void gather(struct crowd *crowd, size_t burst, int64_t timeout_ms) {
  int64_t swept_ns = now_ns();
  for (;;) {
    while (crowd->next < crowd->count && crowd->in_flight < burst) start_connecting(crowd, crowd->next++);
    struct epoll_event events[256];
    const bool busy = crowd->next < crowd->count || crowd->in_flight > 0;
    const int count = epoll_wait(crowd->epoll, events, 256, busy ? 200 : 0);
    if (!busy && count <= 0) return;
    for (int i = 0; i < count; i++) {
      const size_t index = (size_t)events[i].data.u64;
      const enum member_state state = crowd->members[index].state;
      if (state == connecting) {
        on_connected(crowd, index);
      } else if (state == awaiting_echo) {
        on_echo(crowd, index);
      } else if (state == settled) {
        // Nobody asked for anything: the peer hung up.
        crowd->lost++;
        fail_member(crowd, &crowd->members[index], ECONNRESET);
      }
    }
    if (elapsed_ms(swept_ns) > 200) {
      time_out_members(crowd, timeout_ms);
      swept_ns = now_ns();
    }
  }
}

static int compare_doubles(const void *a, const void *b) {
  const double left = *(const double *)a;
  const double right = *(const double *)b;
  return (left > right) - (left < right);
}

static void report_times(const struct crowd *crowd, struct json *json) {
  double *times = calloc(crowd->count + 1, sizeof *times);
  size_t count = 0;
  for (size_t i = 0; times && i < crowd->count; i++) {
    if (crowd->members[i].connect_ms > 0) times[count++] = crowd->members[i].connect_ms;
  }
  if (count > 0) {
    qsort(times, count, sizeof *times, compare_doubles);
    json_object(json, "connectMs");
    json_number(json, "p50", times[count / 2]);
    json_number(json, "p99", times[count * 99 / 100]);
    json_number(json, "max", times[count - 1]);
    json_object_end(json);
  }
  free(times);
}

// While connections are held, whoever measures them needs to know that they are all there.
static void announce_holding(const struct crowd *crowd) {
  struct json json = {0};
  json_object(&json, NULL);
  json_text(&json, "event", "holding");
  json_int(&json, "connected", (int64_t)crowd->connected);
  json_object_end(&json);
  json_print(&json);
}

static void hold(struct crowd *crowd, int64_t seconds, int64_t timeout_ms) {
  announce_holding(crowd);
  sleep((unsigned)seconds);
  // Asking for a second echo is how silence is told from death.
  crowd->round++;
  for (size_t i = 0; i < crowd->count && crowd->echo; i++) {
    if (crowd->members[i].state != settled) continue;
    crowd->in_flight++;
    start_echo(crowd, i);
  }
  gather(crowd, crowd->count, timeout_ms);
}

static void report_crowd(const struct crowd *crowd, struct json *json, size_t alive) {
  json_int(json, "asked", (int64_t)crowd->count);
  json_int(json, "connected", (int64_t)crowd->connected);
  json_int(json, "echoed", (int64_t)crowd->echoed);
  json_int(json, "alive", (int64_t)alive);
  json_object(json, "failures");
  for (int code = 0; code < errno_limit; code++) {
    if (crowd->failures[code] > 0) json_int(json, errno_text(code), crowd->failures[code]);
  }
  json_object_end(json);
  report_times(crowd, json);
}

int run_many(int argc, char **argv) {
  static const struct option options[] = {{"echo", 0, 0, 1}, {"hold", 1, 0, 2}, {"burst", 1, 0, 3}, {"timeout", 1, 0, 4},
      {0, 0, 0, 0}};
  struct crowd crowd = {.round = 1};
  const char *reason = "";
  int64_t hold_seconds = 0;
  int64_t timeout_ms = 10000;
  size_t burst = 256;
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    switch (option) {
      case 1: crowd.echo = true; break;
      case 2: hold_seconds = (int64_t)parse_number("many", optarg); break;
      case 3: burst = (size_t)parse_number("many", optarg); break;
      case 4: timeout_ms = (int64_t)parse_number("many", optarg); break;
      default: return usage_error("many", "unknown option");
    }
  }
  if (argc - optind != 3) return usage_error("many", "HOST PORT COUNT were expected");
  if (!endpoint_parse(argv[optind], argv[optind + 1], &crowd.to, &reason)) return usage_error("many", reason);
  crowd.count = (size_t)parse_number("many", argv[optind + 2]);
  crowd.members = calloc(crowd.count + 1, sizeof *crowd.members);
  crowd.epoll = epoll_create1(EPOLL_CLOEXEC);
  if (burst == 0 || !crowd.members || crowd.epoll < 0) return usage_error("many", "COUNT or --burst is out of range");

  const int64_t start = now_ns();
  gather(&crowd, burst, timeout_ms);
  const double gathered_ms = elapsed_ms(start);
  if (hold_seconds > 0) hold(&crowd, hold_seconds, timeout_ms);
  size_t alive = 0;
  for (size_t i = 0; i < crowd.count; i++) {
    if (crowd.members[i].state != settled) continue;
    alive++;
    close(crowd.members[i].fd);
  }
  struct json json = {0};
  json_object(&json, NULL);
  json_text(&json, "command", "many");
  json_number(&json, "gatheredMs", gathered_ms);
  report_crowd(&crowd, &json, alive);
  free(crowd.members);
  close(crowd.epoll);
  return alive == crowd.count ? finish_ok(&json) : finish_failed(&json, "crowd", ENOTCONN);
}
