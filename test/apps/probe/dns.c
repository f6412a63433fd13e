// `probe dns` and `probe resolve`: a DNS client of its own over UDP and TCP, which shows where each reply came from, and
// the C library's resolver. It asks one question per message and reads A and AAAA answers only.
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probe.h"

enum { type_a = 1, type_aaaa = 28, class_in = 1, header_size = 12, message_limit = 4096, name_limit = 253 };

struct question {
  const char *name;
  uint16_t type;
  bool connected, v4mapped, by_msg, tcp;
  int64_t timeout_ms;
};

static void put16(unsigned char *at, unsigned value) {
  at[0] = (unsigned char)(value >> 8);
  at[1] = (unsigned char)value;
}

static unsigned get16(const unsigned char *at) { return (unsigned)at[0] << 8 | at[1]; }

// Returns the length of the query, or 0 when the name is not a domain name.
static size_t encode_query(unsigned char out[512], uint16_t id, const char *name, uint16_t type) {
  memset(out, 0, header_size);
  put16(out, id);
  out[2] = 1;  // recursion desired
  out[5] = 1;  // one question
  size_t at = header_size;
  if (strlen(name) > name_limit) return 0;
  while (*name) {
    const size_t label = strcspn(name, ".");
    if (label == 0 || label > 63) return 0;
    out[at++] = (unsigned char)label;
    memcpy(out + at, name, label);
    at += label;
    name += label;
    if (*name == '.') name++;
  }
  out[at++] = 0;
  put16(out + at, type);
  put16(out + at + 2, class_in);
  return at + 4;
}

// Position after the name at `at`, or 0 if it leaves the message. Pointers end a name.
static size_t skip_name(const unsigned char *message, size_t length, size_t at) {
  while (at < length) {
    if (message[at] == 0) return at + 1;
    if (message[at] >= 0xc0) return at + 2 <= length ? at + 2 : 0;
    at += 1 + (size_t)message[at];
  }
  return 0;
}

static void report_answers(struct json *json, const unsigned char *message, size_t length) {
  size_t at = header_size;
  json_int(json, "rcode", message[3] & 0xf);
  json_bool(json, "truncated", (message[2] & 2) != 0);
  json_array(json, "answers");
  for (unsigned i = 0; at && i < get16(message + 4); i++) {
    at = skip_name(message, length, at);
    at = at && at + 4 <= length ? at + 4 : 0;
  }
  for (unsigned i = 0; at && i < get16(message + 6); i++) {
    at = skip_name(message, length, at);
    if (!at || at + 10 > length) break;
    const unsigned type = get16(message + at);
    const unsigned size = get16(message + at + 8);
    at += 10;
    if (at + size > length) break;
    char text[INET6_ADDRSTRLEN] = "";
    if (type == type_a && size == 4) inet_ntop(AF_INET, message + at, text, sizeof text);
    if (type == type_aaaa && size == 16) inet_ntop(AF_INET6, message + at, text, sizeof text);
    if (text[0]) json_text(json, NULL, text);
    at += size;
  }
  json_array_end(json);
}

static ssize_t send_query(int fd, const struct question *question, const struct endpoint *server, const unsigned char *query,
    size_t length) {
  struct sockaddr *to = question->connected ? NULL : (struct sockaddr *)&server->addr;
  const socklen_t to_length = question->connected ? 0 : server->length;
  if (!question->by_msg) return sendto(fd, query, length, 0, to, to_length);
  struct iovec piece = {.iov_base = (void *)query, .iov_len = length};
  const struct msghdr message = {.msg_name = to, .msg_namelen = to_length, .msg_iov = &piece, .msg_iovlen = 1};
  return sendmsg(fd, &message, 0);
}

static ssize_t receive_reply(int fd, const struct question *question, unsigned char *reply, struct endpoint *from) {
  *from = (struct endpoint){.length = sizeof from->addr};
  if (!question->by_msg) return recvfrom(fd, reply, message_limit, 0, (struct sockaddr *)&from->addr, &from->length);
  struct iovec piece = {.iov_base = reply, .iov_len = message_limit};
  struct msghdr message = {.msg_name = &from->addr, .msg_namelen = sizeof from->addr, .msg_iov = &piece, .msg_iovlen = 1};
  const ssize_t count = recvmsg(fd, &message, 0);
  from->length = message.msg_namelen;
  return count;
}

// One question to one server on a UDP socket, written as one element of the array of exchanges.
static bool exchange_udp(struct json *json, int fd, const struct question *question, const struct endpoint *server, uint16_t id) {
  const char *stage = NULL;
  const int64_t start = now_ns();
  const int64_t deadline = start + question->timeout_ms * 1000000;
  unsigned char query[512];
  unsigned char reply[message_limit];
  struct endpoint from;
  const size_t length = encode_query(query, id, question->name, question->type);
  ssize_t count = 0;
  json_object(json, NULL);
  json_endpoint(json, "server", server);
  if (question->connected && connect(fd, (const struct sockaddr *)&server->addr, server->length) != 0) {
    stage = "connect";
  } else if (send_query(fd, question, server, query, length) != (ssize_t)length) {
    stage = "send";
  } else {
    // A reply to an older question is skipped, as every resolver does.
    do {
      errno = ETIMEDOUT;
      count = wait_for(fd, POLLIN, deadline) ? receive_reply(fd, question, reply, &from) : -1;
    } while (count >= header_size && get16(reply) != id);
    if (count < header_size) stage = "receive";
  }
  const int code = errno;
  json_socket_names(json, "socket", fd);
  json_number(json, "ms", elapsed_ms(start));
  if (stage) {
    json_text(json, "stage", stage);
    json_text(json, "errno", errno_text(code));
  } else {
    json_endpoint(json, "from", &from);
    json_bool(json, "fromServer", endpoint_equal(&from, server));
    report_answers(json, reply, (size_t)count);
  }
  json_object_end(json);
  return !stage;
}

static bool read_exactly(int fd, unsigned char *out, size_t length, int64_t deadline) {
  while (length > 0) {
    errno = ETIMEDOUT;
    if (!wait_for(fd, POLLIN, deadline)) return false;
    errno = ECONNRESET;
    const ssize_t count = recv(fd, out, length, 0);
    if (count <= 0) return false;
    out += count;
    length -= (size_t)count;
  }
  return true;
}

static bool exchange_tcp(struct json *json, const struct question *question, const struct endpoint *server, uint16_t id) {
  const int64_t start = now_ns();
  const int64_t deadline = start + question->timeout_ms * 1000000;
  unsigned char query[514];
  unsigned char reply[65536];
  const size_t length = encode_query(query + 2, id, question->name, question->type);
  put16(query, (unsigned)length);
  const char *stage = NULL;
  size_t size = 0;
  const int fd = socket(server->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int code = fd < 0 ? errno : connect_within(fd, server, deadline);
  json_object(json, NULL);
  json_endpoint(json, "server", server);
  if (code != 0) {
    stage = "connect";
  } else if (send(fd, query, length + 2, 0) != (ssize_t)length + 2) {
    stage = "send";
    code = errno;
  } else if (!read_exactly(fd, reply, 2, deadline) || (size = get16(reply)) < header_size ||
             !read_exactly(fd, reply, size, deadline)) {
    stage = "receive";
    code = errno;
  }
  json_socket_names(json, "socket", fd);
  json_number(json, "ms", elapsed_ms(start));
  if (stage) {
    json_text(json, "stage", stage);
    json_text(json, "errno", errno_text(code));
  } else {
    report_answers(json, reply, size);
  }
  json_object_end(json);
  if (fd >= 0) close(fd);
  return !stage;
}

int run_dns(int argc, char **argv) {
  enum { type = 1, connected, v4mapped, msg, tcp, second, timeout };
  static const struct option options[] = {{"type", 1, 0, type}, {"connected", 0, 0, connected}, {"v4mapped", 0, 0, v4mapped},
                                          {"msg", 0, 0, msg}, {"tcp", 0, 0, tcp}, {"two-servers", 1, 0, second},
                                          {"timeout", 1, 0, timeout}, {0, 0, 0, 0}};
  struct question question = {.type = type_a, .timeout_ms = 3000};
  const char *second_server = NULL;
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    switch (option) {
      case type:
        if (strcmp(optarg, "A") != 0 && strcmp(optarg, "AAAA") != 0) return usage_error("dns", "--type is A or AAAA");
        question.type = strcmp(optarg, "A") == 0 ? type_a : type_aaaa;
        break;
      case connected: question.connected = true; break;
      case v4mapped: question.v4mapped = true; break;
      case msg: question.by_msg = true; break;
      case tcp: question.tcp = true; break;
      case second: second_server = optarg; break;
      case timeout: question.timeout_ms = (int64_t)parse_number("dns", optarg); break;
      default: return usage_error("dns", "unknown option");
    }
  }
  if (argc - optind != 2) return usage_error("dns", "NAME and SERVER were expected");
  question.name = argv[optind];
  unsigned char scratch[512];
  if (encode_query(scratch, 0, question.name, question.type) == 0) return usage_error("dns", "not a domain name");

  struct endpoint servers[2];
  const size_t count = second_server ? 2 : 1;
  for (size_t i = 0; i < count; i++) {
    const char *reason = "";
    if (!endpoint_parse_joined(i == 0 ? argv[optind + 1] : second_server, "53", &servers[i], &reason)) {
      return usage_error("dns", reason);
    }
    if (question.v4mapped) endpoint_map_v4(&servers[i]);
  }

  struct json json = {0};
  json_object(&json, NULL);
  json_text(&json, "command", "dns");
  int fd = -1;
  if (!question.tcp && (fd = socket(servers[0].addr.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0)) < 0) {
    return finish_failed(&json, "socket", errno);
  }
  // One socket asks both servers: a reply must carry the address of the one that was asked.
  json_array(&json, "exchanges");
  bool all_answered = true;
  for (size_t i = 0; i < count; i++) {
    const uint16_t id = (uint16_t)((unsigned)getpid() * 2 + i);
    const bool answered = question.tcp ? exchange_tcp(&json, &question, &servers[i], id)
                                       : exchange_udp(&json, fd, &question, &servers[i], id);
    all_answered = all_answered && answered;
  }
  json_array_end(&json);
  if (fd >= 0) close(fd);
  return all_answered ? finish_ok(&json) : finish_failed(&json, "exchange", ENOMSG);
}

int run_resolve(int argc, char **argv) {
  static const struct option options[] = {{"family", 1, 0, 1}, {0, 0, 0, 0}};
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (option != 1) return usage_error("resolve", "unknown option");
    hints.ai_family = strcmp(optarg, "6") == 0 ? AF_INET6 : AF_INET;
  }
  if (argc - optind != 1) return usage_error("resolve", "NAME was expected");
  struct json json = {0};
  struct addrinfo *found = NULL;
  const int64_t start = now_ns();
  const int code = getaddrinfo(argv[optind], NULL, &hints, &found);
  json_object(&json, NULL);
  json_text(&json, "command", "resolve");
  json_number(&json, "ms", elapsed_ms(start));
  json_array(&json, "addresses");
  for (const struct addrinfo *entry = found; entry; entry = entry->ai_next) {
    char text[NI_MAXHOST] = "";
    if (getnameinfo(entry->ai_addr, entry->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) == 0) {
      json_text(&json, NULL, text);
    }
  }
  json_array_end(&json);
  if (found) freeaddrinfo(found);
  if (code == 0) return finish_ok(&json);
  json_text(&json, "resolver", gai_strerror(code));
  return finish_failed(&json, "getaddrinfo", code == EAI_SYSTEM ? errno : ENOENT);
}
