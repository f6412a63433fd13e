// One small client with many manners: every way in which applications reach a network, one sub-command each. It is an
// ordinary program and must never know about the mesh.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "probe.h"

static const struct {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *usage;
} commands[] = {
    {"connect", run_connect,
     "HOST PORT [--v4mapped] [--nonblock] [--io-uring] [--tfo] [--tfo-connect] [--mptcp] [--bind IP:PORT]\n"
     "          [--transparent] [--mark N] [--device NAME] [--timeout MS] [--expect-banner] [--send TEXT]\n"
     "          [--keep-open] [--read] [--rst]"},
    {"dns", run_dns,
     "NAME SERVER[:PORT] [--type A|AAAA] [--connected] [--v4mapped] [--msg] [--tcp] [--two-servers S2] [--timeout MS]"},
    {"resolve", run_resolve, "NAME [--family 4|6]"},
    {"rawsyn", run_rawsyn, "SRCIP SPORT DSTIP DPORT [--payload TEXT] [--packet GATEWAY_MAC] [--dev NAME] [--wait MS]"},
    {"spoofudp", run_spoofudp, "SRCIP DSTIP PORT [--sport PORT] [--payload TEXT]"},
    {"bulk", run_bulk,
     "HOST PORT up|down|both BYTES [--seed N] [--rate BYTES_PER_SECOND] [--half-close] [--v4mapped] [--timeout MS]"},
    {"flood", run_flood, "HOST PORT [--seconds S] [--rst]"},
    {"many", run_many, "HOST PORT COUNT [--echo] [--hold SECONDS] [--burst N] [--timeout MS]"},
};

int usage_error(const char *command, const char *what) {
  fprintf(stderr, "probe %s: %s\n", command, what);
  return 2;
}

uint64_t parse_number(const char *command, const char *text) {
  char *end = NULL;
  errno = 0;
  const uint64_t value = strtoull(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || *text == '-') {
    exit(usage_error(command, "a whole number was expected"));
  }
  return value;
}

int finish_failed(struct json *json, const char *stage, int code) {
  json_bool(json, "ok", false);
  json_text(json, "stage", stage);
  json_text(json, "errno", errno_text(code));
  json_object_end(json);
  json_print(json);
  return 1;
}

int finish_ok(struct json *json) {
  json_bool(json, "ok", true);
  json_object_end(json);
  json_print(json);
  return 0;
}

int main(int argc, char **argv) {
  // A peer that went away is an errno to report, not a reason to die.
  signal(SIGPIPE, SIG_IGN);
  raise_open_files();
  for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++) {
    if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
  }
  fprintf(stderr, "usage:\n");
  for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
    fprintf(stderr, "  probe %s %s\n", commands[i].name, commands[i].usage);
  }
  return 2;
}
