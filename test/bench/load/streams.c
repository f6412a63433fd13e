// `load throughput`, `load pingpong` and `load rate`: one thread per stream, blocking calls, counted where the bytes end.
#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "load.h"

struct stream {
  const struct load_options *options;
  pthread_t thread;
  uint64_t bytes;
  uint64_t done;
  double seconds;
  struct durations durations;
};

static atomic_bool stopping;

// Starts `count` threads, stops them after the asked seconds, and waits for them. The caller frees the streams.
static struct stream *run_streams(const struct load_options *options, int count, void *(*body)(void *), double *seconds) {
  struct stream *streams = calloc((size_t)count, sizeof *streams);
  if (!streams) abort();
  const int64_t start = now_ns();
  for (int i = 0; i < count; i++) {
    streams[i].options = options;
    if (pthread_create(&streams[i].thread, NULL, body, &streams[i]) != 0) abort();
  }
  sleep((unsigned)options->seconds);
  stopping = true;
  for (int i = 0; i < count; i++) pthread_join(streams[i].thread, NULL);
  *seconds = elapsed_ms(start) / 1000;
  return streams;
}

static bool any_failed(struct json *json) {
  const size_t before = json->length;
  json_failures(json, "failures");
  // An object without members is `"failures":{}`, after a comma if something precedes it.
  return json->length - before > sizeof ",\"failures\":{}" - 1;
}

static int finish(struct json *json, uint64_t done) {
  json_number(json, "cpuSeconds", cpu_seconds());
  const bool failed = any_failed(json);
  json_bool(json, "ok", done > 0 && !failed);
  json_object_end(json);
  json_print(json);
  return done > 0 && !failed ? 0 : 1;
}

static void *pump_up(void *argument) {
  struct stream *stream = argument;
  char *buffer = calloc(1, buffer_size);
  uint64_t counted = 0;
  const int fd = open_stream(stream->options, peer_discard);
  if (fd < 0 || !buffer) {
    count_failure(errno);
    free(buffer);
    return NULL;
  }
  const int64_t start = now_ns();
  bool good = true;
  while (!stopping && good) good = send_all(fd, buffer, buffer_size);
  // The peer's count, sent when it has read everything, is what arrived; so the time includes the last byte's journey.
  if (good) good = shutdown(fd, SHUT_WR) == 0 && read_all(fd, &counted, sizeof counted);
  if (!good) count_failure(errno);
  stream->bytes = le64toh(counted);
  stream->seconds = elapsed_ms(start) / 1000;
  close(fd);
  free(buffer);
  return NULL;
}

static void *pump_down(void *argument) {
  struct stream *stream = argument;
  char *buffer = calloc(1, buffer_size);
  const int fd = open_stream(stream->options, peer_source);
  if (fd < 0 || !buffer) {
    count_failure(errno);
    free(buffer);
    return NULL;
  }
  const int64_t start = now_ns();
  while (!stopping) {
    const ssize_t count = recv(fd, buffer, buffer_size, 0);
    if (count <= 0) {
      count_failure(count < 0 ? errno : EPIPE);
      break;
    }
    stream->bytes += (uint64_t)count;
  }
  stream->seconds = elapsed_ms(start) / 1000;
  close(fd);
  free(buffer);
  return NULL;
}

int run_throughput(const struct load_options *options) {
  double seconds = 0;
  double rate = 0;
  uint64_t bytes = 0;
  struct stream *streams = run_streams(options, options->streams, options->down ? pump_down : pump_up, &seconds);
  struct json json = {0};
  json_object(&json, NULL);
  json_text(&json, "measure", "throughput");
  json_text(&json, "direction", options->down ? "down" : "up");
  json_int(&json, "streams", options->streams);
  json_array(&json, "gbitPerStream");
  for (int i = 0; i < options->streams; i++) {
    const double own = streams[i].seconds > 0 ? (double)streams[i].bytes * 8 / 1e9 / streams[i].seconds : 0;
    json_number(&json, NULL, own);
    rate += own;
    bytes += streams[i].bytes;
  }
  json_array_end(&json);
  json_number(&json, "gbitPerSecond", rate);
  json_int(&json, "bytes", (int64_t)bytes);
  json_number(&json, "seconds", seconds);
  free(streams);
  return finish(&json, bytes);
}

static void *ping(void *argument) {
  struct stream *stream = argument;
  const size_t size = (size_t)stream->options->size;
  char *buffer = calloc(1, size);
  const int fd = open_stream(stream->options, peer_echo);
  if (fd < 0 || !buffer) {
    count_failure(errno);
    free(buffer);
    return NULL;
  }
  // The first exchanges also wake caches and open windows; they are not counted.
  for (uint64_t i = 0; !stopping; i++) {
    const int64_t start = now_ns();
    if (!send_all(fd, buffer, size) || !read_all(fd, buffer, size)) {
      count_failure(errno);
      break;
    }
    if (i < 100) continue;
    durations_add(&stream->durations, (uint64_t)(now_ns() - start));
  }
  close(fd);
  free(buffer);
  return NULL;
}

int run_pingpong(const struct load_options *options) {
  double seconds = 0;
  struct durations *total = calloc(1, sizeof *total);
  struct stream *streams = run_streams(options, options->streams, ping, &seconds);
  if (!total) abort();
  for (int i = 0; i < options->streams; i++) durations_merge(total, &streams[i].durations);
  const uint64_t count = total->count;
  struct json json = {0};
  json_object(&json, NULL);
  json_text(&json, "measure", "pingpong");
  json_int(&json, "size", options->size);
  json_int(&json, "streams", options->streams);
  json_int(&json, "count", (int64_t)count);
  json_durations(&json, "us", total);
  json_number(&json, "seconds", seconds);
  free(total);
  free(streams);
  return finish(&json, count);
}

static bool ask_once(const struct load_options *options) {
  char message[answer_size] = {0};
  const int fd = open_stream(options, options->client_closes ? peer_echo : peer_answer);
  if (fd < 0) return false;
  bool good = send_all(fd, message, sizeof message) && read_all(fd, message, sizeof message);
  // The peer's end of file completes the exchange: it closed first and keeps TIME_WAIT, not our scarce local ports.
  if (good && !options->client_closes) good = recv(fd, message, 1, 0) == 0;
  const int code = errno;
  close(fd);
  errno = code;
  return good;
}

static void *knock(void *argument) {
  struct stream *stream = argument;
  while (!stopping) {
    const int64_t start = now_ns();
    if (ask_once(stream->options)) {
      durations_add(&stream->durations, (uint64_t)(now_ns() - start));
    } else {
      count_failure(errno);
      // A refused connection must not turn into a spin that slows whoever refuses.
      usleep(1000);
    }
  }
  return NULL;
}

int run_rate(const struct load_options *options) {
  double seconds = 0;
  struct durations *total = calloc(1, sizeof *total);
  struct stream *streams = run_streams(options, options->parallel, knock, &seconds);
  if (!total) abort();
  for (int i = 0; i < options->parallel; i++) durations_merge(total, &streams[i].durations);
  const uint64_t count = total->count;
  struct json json = {0};
  json_object(&json, NULL);
  json_text(&json, "measure", "rate");
  json_int(&json, "parallel", options->parallel);
  json_int(&json, "count", (int64_t)count);
  json_number(&json, "perSecond", (double)count / seconds);
  json_durations(&json, "us", total);
  json_number(&json, "seconds", seconds);
  free(total);
  free(streams);
  return finish(&json, count);
}
