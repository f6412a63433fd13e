// What all measurements share: opening streams, durations, failures, CPU time. See load.h.
#include <errno.h>
#include <netinet/tcp.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>

#include "load.h"

enum { errno_limit = 256 };
static _Atomic uint64_t failures[errno_limit];

bool send_all(int fd, const void *bytes, size_t length) {
  const char *at = bytes;
  while (length > 0) {
    const ssize_t count = send(fd, at, length, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    at += count;
    length -= (size_t)count;
  }
  return true;
}

bool read_all(int fd, void *bytes, size_t length) {
  char *at = bytes;
  while (length > 0) {
    const ssize_t count = recv(fd, at, length, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count == 0) errno = EPIPE;
    if (count <= 0) return false;
    at += count;
    length -= (size_t)count;
  }
  return true;
}

int open_stream(const struct load_options *options, enum peer_mode mode) {
  const int on = 1;
  const char byte = (char)mode;
  const struct timeval limit = {.tv_sec = options->timeout_ns / 1000000000};
  const int fd = socket(options->to.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  int code = connect(fd, (const struct sockaddr *)&options->to.addr, options->to.length) == 0 ? 0 : errno;
  if (code == 0 && !send_all(fd, &byte, 1)) code = errno;
  if (code == 0) return fd;
  close(fd);
  errno = code;
  return -1;
}

static unsigned bucket_of(uint64_t ns) {
  if (ns < 1u << bucket_bits) return (unsigned)ns;
  const unsigned shift = 63 - (unsigned)__builtin_clzll(ns) - bucket_bits;
  return ((shift + 1) << bucket_bits) + (unsigned)(ns >> shift) - (1u << bucket_bits);
}

// The middle of what falls into the bucket.
static double bucket_middle_ns(unsigned bucket) {
  if (bucket < 1u << bucket_bits) return bucket;
  const unsigned shift = (bucket >> bucket_bits) - 1;
  const uint64_t low = (uint64_t)((bucket & ((1u << bucket_bits) - 1)) + (1u << bucket_bits)) << shift;
  return (double)low + (double)(1ull << shift) / 2;
}

void durations_add(struct durations *durations, uint64_t ns) {
  durations->buckets[bucket_of(ns)]++;
  durations->count++;
  if (ns > durations->max_ns) durations->max_ns = ns;
}

void durations_merge(struct durations *into, const struct durations *from) {
  for (unsigned i = 0; i < bucket_count; i++) into->buckets[i] += from->buckets[i];
  into->count += from->count;
  if (from->max_ns > into->max_ns) into->max_ns = from->max_ns;
}

static double quantile_us(const struct durations *durations, double quantile) {
  const double target = quantile * (double)durations->count;
  uint64_t seen = 0;
  for (unsigned i = 0; i < bucket_count; i++) {
    seen += durations->buckets[i];
    if (seen > 0 && (double)seen >= target) {
      const double middle = bucket_middle_ns(i);
      return (middle < (double)durations->max_ns ? middle : (double)durations->max_ns) / 1000;
    }
  }
  return 0;
}

void json_durations(struct json *json, const char *key, const struct durations *durations) {
  json_object(json, key);
  json_number(json, "p50", quantile_us(durations, 0.5));
  json_number(json, "p90", quantile_us(durations, 0.9));
  json_number(json, "p99", quantile_us(durations, 0.99));
  json_number(json, "p999", quantile_us(durations, 0.999));
  json_number(json, "max", (double)durations->max_ns / 1000);
  json_object_end(json);
}

void count_failure(int code) { failures[code > 0 && code < errno_limit ? code : 0]++; }

void json_failures(struct json *json, const char *key) {
  json_object(json, key);
  for (int code = 0; code < errno_limit; code++) {
    const uint64_t count = failures[code];
    if (count > 0) json_int(json, errno_text(code), (int64_t)count);
  }
  json_object_end(json);
}

double cpu_seconds(void) {
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  const double seconds = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec);
  return seconds + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}
