// `probe connect`: one TCP connection made in the asked manner, what the socket says of itself before and after, and an
// optional conversation.
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probe.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
// From linux/mptcp.h, which cannot be included beside netinet/in.h.
enum { sol_mptcp = 284, mptcp_info_option = 1 };
enum { shown_bytes = 4096 };

struct style {
  bool v4mapped, nonblock, io_uring, tfo, tfo_connect, mptcp, transparent, expect_banner, keep_open, read, rst;
  const char *bind_to, *device, *send;
  int mark;
  int64_t timeout_ms;
};

struct attempt {
  struct style style;
  struct endpoint to;
  int fd;
  int64_t deadline_ns;
  size_t sent;
  struct json json;
};

static bool parse_style(int argc, char **argv, struct style *style) {
  enum { v4mapped = 1, nonblock, io_uring, tfo, tfo_connect, mptcp, transparent, banner, keep, read, rst };
  enum { bind_to = 20, device, send, mark, timeout };
  static const struct option options[] = {
      {"v4mapped", 0, 0, v4mapped}, {"nonblock", 0, 0, nonblock}, {"io-uring", 0, 0, io_uring}, {"tfo", 0, 0, tfo},
      {"tfo-connect", 0, 0, tfo_connect}, {"mptcp", 0, 0, mptcp}, {"transparent", 0, 0, transparent},
      {"expect-banner", 0, 0, banner}, {"keep-open", 0, 0, keep}, {"read", 0, 0, read}, {"rst", 0, 0, rst},
      {"bind", 1, 0, bind_to}, {"device", 1, 0, device}, {"send", 1, 0, send}, {"mark", 1, 0, mark},
      {"timeout", 1, 0, timeout}, {0, 0, 0, 0}};
  *style = (struct style){.mark = -1, .timeout_ms = 5000};
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    switch (option) {
      case v4mapped: style->v4mapped = true; break;
      case nonblock: style->nonblock = true; break;
      case io_uring: style->io_uring = true; break;
      case tfo: style->tfo = true; break;
      case tfo_connect: style->tfo_connect = true; break;
      case mptcp: style->mptcp = true; break;
      case transparent: style->transparent = true; break;
      case banner: style->expect_banner = true; break;
      case keep: style->keep_open = true; break;
      case read: style->read = true; break;
      case rst: style->rst = true; break;
      case bind_to: style->bind_to = optarg; break;
      case device: style->device = optarg; break;
      case send: style->send = optarg; break;
      case mark: style->mark = (int)parse_number("connect", optarg); break;
      case timeout: style->timeout_ms = (int64_t)parse_number("connect", optarg); break;
      default: return false;
    }
  }
  return true;
}

static int set_flag(int fd, int level, int name, int value) {
  return setsockopt(fd, level, name, &value, sizeof value) == 0 ? 0 : errno;
}

// Makes the socket and everything that precedes connect. Returns the stage that failed, or NULL.
static const char *prepare_socket(struct attempt *attempt, int *code) {
  const struct style *style = &attempt->style;
  const int family = attempt->to.addr.ss_family;
  attempt->fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | (style->nonblock ? SOCK_NONBLOCK : 0),
      style->mptcp ? IPPROTO_MPTCP : 0);
  *code = errno;
  if (attempt->fd < 0) return "socket";
  if (family == AF_INET6 && (*code = set_flag(attempt->fd, IPPROTO_IPV6, IPV6_V6ONLY, 0)) != 0) return "IPV6_V6ONLY";
  if (style->mark >= 0 && (*code = set_flag(attempt->fd, SOL_SOCKET, SO_MARK, style->mark)) != 0) return "SO_MARK";
  const socklen_t device_length = style->device ? (socklen_t)strlen(style->device) : 0;
  if (style->device && setsockopt(attempt->fd, SOL_SOCKET, SO_BINDTODEVICE, style->device, device_length) != 0) {
    *code = errno;
    return "SO_BINDTODEVICE";
  }
  if (style->transparent && (*code = set_flag(attempt->fd, SOL_IP, IP_TRANSPARENT, 1)) != 0) return "IP_TRANSPARENT";
  if (style->tfo_connect && (*code = set_flag(attempt->fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)) != 0) {
    return "TCP_FASTOPEN_CONNECT";
  }
  if (style->bind_to) {
    struct endpoint from;
    const char *reason = "";
    *code = EINVAL;
    if (!endpoint_parse_joined(style->bind_to, "0", &from, &reason)) return "bindAddress";
    if (style->v4mapped) endpoint_map_v4(&from);
    // Servers and clients that choose their port nearly always allow its quick reuse.
    set_flag(attempt->fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(attempt->fd, (struct sockaddr *)&from.addr, from.length) != 0) {
      *code = errno;
      return "bind";
    }
  }
  *code = 0;
  return NULL;
}

// Applications that connect without blocking learn the outcome from SO_ERROR once the socket is writable.
static int finish_nonblocking(struct attempt *attempt, int code) {
  if (code != EINPROGRESS) return code;
  json_socket_names(&attempt->json, "during", attempt->fd);
  if (!wait_for(attempt->fd, POLLOUT, attempt->deadline_ns)) return ETIMEDOUT;
  socklen_t length = sizeof code;
  return getsockopt(attempt->fd, SOL_SOCKET, SO_ERROR, &code, &length) == 0 ? code : errno;
}

static int connect_in_style(struct attempt *attempt) {
  const struct style *style = &attempt->style;
  const struct sockaddr *to = (const struct sockaddr *)&attempt->to.addr;
  // Blocking calls obey the time limit by SO_SNDTIMEO, which connect reports as EINPROGRESS.
  const struct timeval limit = {.tv_sec = style->timeout_ms / 1000, .tv_usec = style->timeout_ms % 1000 * 1000};
  setsockopt(attempt->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (style->io_uring) return uring_connect(attempt->fd, &attempt->to);
  int code = 0;
  if (style->tfo) {
    const char *data = style->send ? style->send : "";
    const ssize_t count = sendto(attempt->fd, data, strlen(data), MSG_FASTOPEN, to, attempt->to.length);
    if (count >= 0) attempt->sent = (size_t)count;
    code = count >= 0 ? 0 : errno;
  } else if (connect(attempt->fd, to, attempt->to.length) != 0) {
    code = errno;
  }
  if (style->nonblock) return finish_nonblocking(attempt, code);
  return code == EINPROGRESS ? ETIMEDOUT : code;
}

static void report_transport(struct attempt *attempt) {
  int protocol = 0;
  socklen_t length = sizeof protocol;
  if (getsockopt(attempt->fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) == 0) json_int(&attempt->json, "protocol", protocol);
  if (attempt->style.mptcp) {
    unsigned char info[256];
    length = sizeof info;
    const bool negotiated = getsockopt(attempt->fd, sol_mptcp, mptcp_info_option, info, &length) == 0;
    json_text(&attempt->json, "mptcp", negotiated ? "negotiated" : "fallback");
  }
  struct tcp_info info;
  length = sizeof info;
  if (getsockopt(attempt->fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0) {
    json_bool(&attempt->json, "synData", (info.tcpi_options & TCPI_OPT_SYN_DATA) != 0);
  }
}

struct reading {
  unsigned char shown[shown_bytes];
  size_t shown_length;
  size_t total;
  struct hash hash;
  const char *end;
  int code;
};

static void keep_bytes(struct reading *reading, const unsigned char *bytes, size_t count) {
  size_t room = sizeof reading->shown - reading->shown_length;
  if (room > count) room = count;
  memcpy(reading->shown + reading->shown_length, bytes, room);
  reading->shown_length += room;
  reading->total += count;
  hash_add(&reading->hash, bytes, count);
}

// Reads until end of file, an error, the deadline, a newline (if asked) or `stop_after` bytes.
static void read_some(struct attempt *attempt, struct reading *reading, bool until_newline, size_t stop_after) {
  static unsigned char buffer[65536];
  hash_start(&reading->hash);
  while (reading->total < stop_after) {
    if (!wait_for(attempt->fd, POLLIN, attempt->deadline_ns)) {
      reading->end = "timeout";
      return;
    }
    // One byte at a time until the newline, so that nothing after it is swallowed.
    size_t room = until_newline ? 1 : sizeof buffer;
    if (room > stop_after - reading->total) room = stop_after - reading->total;
    const ssize_t count = recv(attempt->fd, buffer, room, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (count <= 0) {
      reading->code = count < 0 ? errno : 0;
      reading->end = count < 0 ? "error" : "eof";
      return;
    }
    keep_bytes(reading, buffer, (size_t)count);
    if (until_newline && buffer[0] == '\n') break;
  }
  reading->end = "complete";
}

static int send_rest(struct attempt *attempt) {
  const size_t length = strlen(attempt->style.send);
  while (attempt->sent < length) {
    if (!wait_for(attempt->fd, POLLOUT, attempt->deadline_ns)) return ETIMEDOUT;
    const ssize_t count = send(attempt->fd, attempt->style.send + attempt->sent, length - attempt->sent, MSG_DONTWAIT);
    if (count < 0 && errno != EAGAIN && errno != EINTR) return errno;
    if (count > 0) attempt->sent += (size_t)count;
  }
  return 0;
}

// The conversation after the connection. Returns the stage that failed, or NULL.
static const char *converse(struct attempt *attempt, int *code) {
  const struct style *style = &attempt->style;
  struct json *json = &attempt->json;
  if (style->expect_banner) {
    struct reading banner = {0};
    read_some(attempt, &banner, true, sizeof banner.shown);
    json_bytes(json, "banner", banner.shown, banner.shown_length);
    *code = banner.code ? banner.code : ETIMEDOUT;
    if (strcmp(banner.end, "complete") != 0) return "banner";
  }
  if (style->send) {
    *code = send_rest(attempt);
    json_int(json, "sent", (int64_t)attempt->sent);
    if (*code != 0) return "send";
  }
  // The names while both sides talk: a deferred connect has its peer only now, and a closed one loses it again.
  json_socket_names(json, "talking", attempt->fd);
  if (style->send && !style->keep_open) shutdown(attempt->fd, SHUT_WR);
  if (style->send || style->read) {
    struct reading reply = {0};
    read_some(attempt, &reply, false, style->keep_open && style->send ? attempt->sent : SIZE_MAX);
    json_int(json, "received", (int64_t)reply.total);
    json_bytes(json, "reply", reply.shown, reply.shown_length);
    json_text(json, "end", reply.end);
    *code = reply.code ? reply.code : ETIMEDOUT;
    if (strcmp(reply.end, "error") == 0 || strcmp(reply.end, "timeout") == 0) return "read";
  }
  return NULL;
}

int run_connect(int argc, char **argv) {
  struct attempt attempt = {.fd = -1};
  struct json *json = &attempt.json;
  const char *reason = "";
  if (!parse_style(argc, argv, &attempt.style) || argc - optind != 2) {
    return usage_error("connect", "HOST PORT and known options were expected");
  }
  if (!endpoint_parse(argv[optind], argv[optind + 1], &attempt.to, &reason)) return usage_error("connect", reason);
  if (attempt.style.v4mapped) endpoint_map_v4(&attempt.to);

  json_object(json, NULL);
  json_text(json, "command", "connect");
  json_endpoint(json, "asked", &attempt.to);
  int code = 0;
  const char *stage = prepare_socket(&attempt, &code);
  if (stage) return finish_failed(json, stage, code);
  json_socket_names(json, "before", attempt.fd);

  const int64_t start = now_ns();
  attempt.deadline_ns = start + attempt.style.timeout_ms * 1000000;
  code = connect_in_style(&attempt);
  json_number(json, "connectMs", elapsed_ms(start));
  json_socket_names(json, "after", attempt.fd);
  if (code != 0) return finish_failed(json, "connect", code);

  stage = converse(&attempt, &code);
  report_transport(&attempt);
  json_number(json, "totalMs", elapsed_ms(start));
  if (attempt.style.rst) {
    const struct linger abort_at_close = {.l_onoff = 1, .l_linger = 0};
    setsockopt(attempt.fd, SOL_SOCKET, SO_LINGER, &abort_at_close, sizeof abort_at_close);
  }
  close(attempt.fd);
  return stage ? finish_failed(json, stage, code) : finish_ok(json);
}
