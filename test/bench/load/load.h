// The load generator: a peer that does as little as possible and clients that measure. It is an ordinary program and
// must never know about the mesh. Everything prints one JSON line.
//
// The client's first byte chooses what the peer does with the connection (enum peer_mode); that byte is not payload.
#ifndef SIDESTEP_BENCH_LOAD_H
#define SIDESTEP_BENCH_LOAD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../apps/common/json.h"
#include "../../apps/common/net.h"

enum peer_mode {
  peer_discard = 'D',  // reads to end of file, then answers the number of payload bytes as 8 bytes, little-endian
  peer_source = 'S',   // sends until the client goes away
  peer_echo = 'E',     // answers every byte
  peer_answer = 'Q',   // reads answer_size bytes, answers as many, closes
};

enum { buffer_size = 256 * 1024, answer_size = 100, stream_limit = 256 };

struct load_options {
  struct endpoint to;
  int streams;
  int seconds;
  int size;
  int parallel;
  int count;
  int64_t timeout_ns;
  bool down;
  bool client_closes;
};

int run_serve(const char *bind_to, const char *port, int threads);
int run_throughput(const struct load_options *options);
int run_pingpong(const struct load_options *options);
int run_rate(const struct load_options *options);
int run_hold(const struct load_options *options);

// A connected blocking socket without Nagle's delay and with time limits, its mode byte sent; or -1 with errno.
int open_stream(const struct load_options *options, enum peer_mode mode);
// True when exactly `length` bytes were sent or read.
bool send_all(int fd, const void *bytes, size_t length);
bool read_all(int fd, void *bytes, size_t length);

// Durations in logarithmic buckets of about 1.5 percent, so that hours of samples take constant memory.
enum { bucket_bits = 6, bucket_count = 64 << bucket_bits };
struct durations {
  uint64_t buckets[bucket_count];
  uint64_t count;
  uint64_t max_ns;
};
void durations_add(struct durations *durations, uint64_t ns);
void durations_merge(struct durations *into, const struct durations *from);
// Writes {"p50", "p90", "p99", "p999", "max"} in microseconds.
void json_durations(struct json *json, const char *key, const struct durations *durations);

// Failures by errno, filled by many threads.
void count_failure(int code);
void json_failures(struct json *json, const char *key);

// CPU seconds of this process, user and kernel.
double cpu_seconds(void);

#endif
