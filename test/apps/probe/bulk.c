// `probe bulk` and `probe flood`: large transfers against the server's bulk mode, both ends hashing what they sent and
// what they got, and a writer that never waits for its reader.
//
// Bulk protocol: the client sends "DIRECTION BYTES SEED\n" and, for up and both, BYTES of the pattern of SEED and then
// end of file. The server sends, for down and both, BYTES of the pattern of ~SEED. Last it sends the trailer
// "GOT_BYTES GOT_HASH SENT_BYTES SENT_HASH\n" and closes.
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "probe.h"

enum { chunk_size = 256 * 1024, trailer_limit = 256 };

struct transfer {
  int fd;
  uint64_t bytes, seed;
  bool up, down;
  int64_t rate, started_ns;
  uint64_t sent, received;
  struct hash sent_hash, received_hash;
  int64_t first_bad;
  bool write_open;
  unsigned char chunk[chunk_size];
  size_t chunk_start, chunk_end;
  char trailer[trailer_limit];
  size_t trailer_length;
  bool got_end;
};

static uint64_t to_send(const struct transfer *transfer) { return transfer->up ? transfer->bytes : 0; }
static uint64_t to_receive(const struct transfer *transfer) { return transfer->down ? transfer->bytes : 0; }

static int send_chunk(struct transfer *transfer) {
  if (transfer->chunk_start == transfer->chunk_end) {
    const uint64_t left = to_send(transfer) - transfer->sent;
    transfer->chunk_start = 0;
    transfer->chunk_end = left < chunk_size ? (size_t)left : chunk_size;
    pattern_fill(transfer->chunk, transfer->chunk_end, transfer->seed, transfer->sent);
    hash_add(&transfer->sent_hash, transfer->chunk, transfer->chunk_end);
  }
  const size_t left_in_chunk = transfer->chunk_end - transfer->chunk_start;
  const ssize_t count = send(transfer->fd, transfer->chunk + transfer->chunk_start, left_in_chunk, 0);
  if (count < 0) return errno == EAGAIN || errno == EINTR ? 0 : errno;
  transfer->chunk_start += (size_t)count;
  transfer->sent += (uint64_t)count;
  return 0;
}

static void check_payload(struct transfer *transfer, const unsigned char *bytes, size_t count) {
  static unsigned char expected[chunk_size];
  hash_add(&transfer->received_hash, bytes, count);
  pattern_fill(expected, count, ~transfer->seed, transfer->received);
  if (transfer->first_bad < 0 && memcmp(expected, bytes, count) != 0) {
    size_t i = 0;
    while (expected[i] == bytes[i]) i++;
    transfer->first_bad = (int64_t)(transfer->received + i);
  }
  transfer->received += count;
}

static int receive_chunk(struct transfer *transfer) {
  static unsigned char buffer[chunk_size];
  size_t room = sizeof buffer;
  if (transfer->rate > 0 && transfer->rate / 20 + 1 < (int64_t)room) room = (size_t)transfer->rate / 20 + 1;
  const ssize_t count = recv(transfer->fd, buffer, room, 0);
  if (count < 0) return errno == EAGAIN || errno == EINTR ? 0 : errno;
  transfer->got_end = count == 0;
  const uint64_t left = to_receive(transfer) - transfer->received;
  const size_t payload = (uint64_t)count < left ? (size_t)count : (size_t)left;
  if (payload > 0) check_payload(transfer, buffer, payload);
  size_t extra = (size_t)count - payload;
  if (extra > sizeof transfer->trailer - 1 - transfer->trailer_length) return EPROTO;
  memcpy(transfer->trailer + transfer->trailer_length, buffer + payload, extra);
  transfer->trailer_length += extra;
  return 0;
}

// A rate makes this a slow reader: it reads only when it is behind the schedule.
static bool may_read(const struct transfer *transfer) {
  if (transfer->rate <= 0) return true;
  const double seconds = (double)(now_ns() - transfer->started_ns) / 1e9;
  return (double)transfer->received <= seconds * (double)transfer->rate;
}

static int run_transfer(struct transfer *transfer, bool half_close_early, int64_t deadline_ns) {
  transfer->write_open = true;
  while (!transfer->got_end) {
    if (now_ns() > deadline_ns) return ETIMEDOUT;
    if (transfer->write_open && transfer->sent == to_send(transfer) && (transfer->up || half_close_early)) {
      shutdown(transfer->fd, SHUT_WR);
      transfer->write_open = false;
    }
    const bool reads = may_read(transfer);
    const bool writes = transfer->sent < to_send(transfer);
    struct pollfd entry = {.fd = transfer->fd, .events = (short)((reads ? POLLIN : 0) | (writes ? POLLOUT : 0))};
    if (poll(&entry, 1, reads ? 1000 : 20) < 0 && errno != EINTR) return errno;
    int code = 0;
    if (writes && entry.revents & (POLLOUT | POLLERR)) code = send_chunk(transfer);
    if (code == 0 && reads && entry.revents & (POLLIN | POLLHUP | POLLERR)) code = receive_chunk(transfer);
    if (code != 0) return code;
  }
  return 0;
}

static void json_hash(struct json *json, const char *key, uint64_t value) {
  char text[32];
  snprintf(text, sizeof text, "%016" PRIx64, value);
  json_text(json, key, text);
}

// Compares both ends' accounts. Returns the stage at which they differ, or NULL.
static const char *compare_accounts(const struct transfer *transfer, struct json *json) {
  uint64_t server_got = 0, server_got_hash = 0, server_sent = 0, server_sent_hash = 0;
  const int fields = sscanf(transfer->trailer, "%" SCNu64 " %" SCNx64 " %" SCNu64 " %" SCNx64, &server_got, &server_got_hash,
      &server_sent, &server_sent_hash);
  if (fields != 4) return "trailer";
  json_hash(json, "serverReceivedHash", server_got_hash);
  json_hash(json, "serverSentHash", server_sent_hash);
  if (server_got != transfer->sent || server_got_hash != hash_value(&transfer->sent_hash)) return "upHash";
  if (server_sent != transfer->received || server_sent_hash != hash_value(&transfer->received_hash)) return "downHash";
  return transfer->first_bad >= 0 ? "pattern" : NULL;
}

static int report_transfer(struct transfer *transfer, struct json *json, int code) {
  const double ms = elapsed_ms(transfer->started_ns);
  json_int(json, "bytes", (int64_t)transfer->bytes);
  json_int(json, "sent", (int64_t)transfer->sent);
  json_int(json, "received", (int64_t)transfer->received);
  json_hash(json, "sentHash", hash_value(&transfer->sent_hash));
  json_hash(json, "receivedHash", hash_value(&transfer->received_hash));
  json_int(json, "firstBadOffset", transfer->first_bad);
  json_number(json, "ms", ms);
  json_number(json, "gbitPerSecond", (double)(transfer->sent + transfer->received) * 8 / ms / 1e6);
  if (code != 0) return finish_failed(json, "transfer", code);
  const char *stage = compare_accounts(transfer, json);
  if (!stage && (transfer->sent != to_send(transfer) || transfer->received != to_receive(transfer))) stage = "length";
  return stage ? finish_failed(json, stage, EBADMSG) : finish_ok(json);
}

static int open_connection(const struct endpoint *to, int64_t deadline_ns, int *code) {
  const int fd = socket(to->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  *code = fd < 0 ? errno : connect_within(fd, to, deadline_ns);
  return fd;
}

int run_bulk(int argc, char **argv) {
  enum { seed = 1, rate, half_close, v4mapped, timeout };
  static const struct option options[] = {{"seed", 1, 0, seed}, {"rate", 1, 0, rate}, {"half-close", 0, 0, half_close},
                                          {"v4mapped", 0, 0, v4mapped}, {"timeout", 1, 0, timeout}, {0, 0, 0, 0}};
  static struct transfer transfer;
  struct endpoint to;
  const char *reason = "";
  bool mapped = false;
  bool half_close_early = false;
  int64_t timeout_ms = 120000;
  int option;
  transfer.seed = 1;
  transfer.first_bad = -1;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    switch (option) {
      case seed: transfer.seed = parse_number("bulk", optarg); break;
      case rate: transfer.rate = (int64_t)parse_number("bulk", optarg); break;
      case half_close: half_close_early = true; break;
      case v4mapped: mapped = true; break;
      case timeout: timeout_ms = (int64_t)parse_number("bulk", optarg); break;
      default: return usage_error("bulk", "unknown option");
    }
  }
  if (argc - optind != 4) return usage_error("bulk", "HOST PORT DIRECTION BYTES were expected");
  const char *direction = argv[optind + 2];
  transfer.up = strcmp(direction, "up") == 0 || strcmp(direction, "both") == 0;
  transfer.down = strcmp(direction, "down") == 0 || strcmp(direction, "both") == 0;
  transfer.bytes = parse_number("bulk", argv[optind + 3]);
  if (!transfer.up && !transfer.down) return usage_error("bulk", "DIRECTION is up, down or both");
  if (!endpoint_parse(argv[optind], argv[optind + 1], &to, &reason)) return usage_error("bulk", reason);
  if (mapped) endpoint_map_v4(&to);

  struct json json = {0};
  json_object(&json, NULL);
  json_text(&json, "command", "bulk");
  json_text(&json, "direction", direction);
  hash_start(&transfer.sent_hash);
  hash_start(&transfer.received_hash);
  transfer.started_ns = now_ns();
  const int64_t deadline_ns = transfer.started_ns + timeout_ms * 1000000;
  int code = 0;
  transfer.fd = open_connection(&to, deadline_ns, &code);
  if (code != 0) return finish_failed(&json, "connect", code);
  char header[64];
  const int length = snprintf(header, sizeof header, "%s %" PRIu64 " %" PRIu64 "\n", direction, transfer.bytes, transfer.seed);
  if (send(transfer.fd, header, (size_t)length, 0) != length) return finish_failed(&json, "header", errno);
  fcntl(transfer.fd, F_SETFL, O_NONBLOCK);
  code = run_transfer(&transfer, half_close_early, deadline_ns);
  close(transfer.fd);
  return report_transfer(&transfer, &json, code);
}

int run_flood(int argc, char **argv) {
  static const struct option options[] = {{"seconds", 1, 0, 1}, {"rst", 0, 0, 2}, {0, 0, 0, 0}};
  static unsigned char chunk[chunk_size];
  struct endpoint to;
  const char *reason = "";
  int64_t seconds = 2;
  bool rst = false;
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (option == 1) seconds = (int64_t)parse_number("flood", optarg);
    else if (option == 2) rst = true;
    else return usage_error("flood", "unknown option");
  }
  if (argc - optind != 2) return usage_error("flood", "HOST PORT were expected");
  if (!endpoint_parse(argv[optind], argv[optind + 1], &to, &reason)) return usage_error("flood", reason);
  struct json json = {0};
  json_object(&json, NULL);
  json_text(&json, "command", "flood");
  const int64_t deadline_ns = now_ns() + seconds * 1000000000;
  int code = 0;
  const int fd = open_connection(&to, deadline_ns, &code);
  if (code != 0) return finish_failed(&json, "connect", code);
  pattern_fill(chunk, sizeof chunk, 1, 0);
  uint64_t accepted = 0;
  // "Accepted" counts what the kernel took from us: all buffers between here and the reader together.
  while (code == 0 && wait_for(fd, POLLOUT, deadline_ns)) {
    const ssize_t count = send(fd, chunk, sizeof chunk, MSG_DONTWAIT);
    if (count > 0) accepted += (uint64_t)count;
    else if (errno != EAGAIN && errno != EINTR) code = errno;
  }
  json_int(&json, "accepted", (int64_t)accepted);
  const struct linger abort_at_close = {.l_onoff = 1, .l_linger = 0};
  if (rst) setsockopt(fd, SOL_SOCKET, SO_LINGER, &abort_at_close, sizeof abort_at_close);
  close(fd);
  return code == 0 ? finish_ok(&json) : finish_failed(&json, "send", code);
}
