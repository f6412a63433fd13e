// The load generator's command line. See load.h.
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"

static int usage(void) {
  fprintf(stderr,
          "usage:\n"
          "  load serve PORT [--bind IP] [--threads N]\n"
          "  load throughput HOST PORT [--streams N] [--seconds S] [--down]\n"
          "  load pingpong HOST PORT [--size BYTES] [--streams N] [--seconds S]\n"
          "  load rate HOST PORT [--parallel N] [--seconds S] [--client-closes]\n"
          "  load hold HOST PORT COUNT [--seconds S]\n"
          "common: [--timeout SECONDS]\n");
  return 2;
}

static int parse_number(const char *text, int lowest, int highest) {
  char *end = NULL;
  errno = 0;
  const long value = strtol(text, &end, 10);
  if (errno == 0 && end != text && *end == '\0' && value >= lowest && value <= highest) return (int)value;
  fprintf(stderr, "load: %s is not a number from %d to %d\n", text, lowest, highest);
  exit(2);
}

int main(int argc, char **argv) {
  enum { streams = 1, seconds, size, parallel, down, client_closes, bind_to, threads, timeout };
  static const struct option known[] = {
      {"streams", 1, 0, streams}, {"seconds", 1, 0, seconds}, {"size", 1, 0, size}, {"parallel", 1, 0, parallel},
      {"down", 0, 0, down}, {"client-closes", 0, 0, client_closes}, {"bind", 1, 0, bind_to}, {"threads", 1, 0, threads},
      {"timeout", 1, 0, timeout}, {0, 0, 0, 0}};
  struct load_options options = {.streams = 1, .seconds = 2, .size = 100, .parallel = 8, .timeout_ns = 10000000000};
  const char *address = "::";
  int thread_count = 2;
  int option;
  while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
    switch (option) {
      case streams: options.streams = parse_number(optarg, 1, stream_limit); break;
      case seconds: options.seconds = parse_number(optarg, 1, 86400); break;
      case size: options.size = parse_number(optarg, 1, buffer_size); break;
      case parallel: options.parallel = parse_number(optarg, 1, stream_limit); break;
      case down: options.down = true; break;
      case client_closes: options.client_closes = true; break;
      case bind_to: address = optarg; break;
      case threads: thread_count = parse_number(optarg, 1, stream_limit); break;
      case timeout: options.timeout_ns = (int64_t)parse_number(optarg, 1, 3600) * 1000000000; break;
      default: return usage();
    }
  }
  signal(SIGPIPE, SIG_IGN);
  raise_open_files();
  const int left = argc - optind;
  if (left < 2) return usage();
  const char *command = argv[optind];
  if (strcmp(command, "serve") == 0) return left == 2 ? run_serve(address, argv[optind + 1], thread_count) : usage();

  const char *reason = "";
  if (left < 3) return usage();
  if (!endpoint_parse(argv[optind + 1], argv[optind + 2], &options.to, &reason)) {
    fprintf(stderr, "load: %s: %s\n", argv[optind + 1], reason);
    return 2;
  }
  if (strcmp(command, "hold") == 0 && left == 4) {
    options.count = parse_number(argv[optind + 3], 1, 1000000);
    return run_hold(&options);
  }
  if (left != 3) return usage();
  if (strcmp(command, "throughput") == 0) return run_throughput(&options);
  if (strcmp(command, "pingpong") == 0) return run_pingpong(&options);
  if (strcmp(command, "rate") == 0) return run_rate(&options);
  return usage();
}
