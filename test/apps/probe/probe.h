// The sub-commands of the probe. Each takes its own argv (argv[0] is the sub-command), prints JSON lines of which the
// last is the result, and returns the exit status: 0 it worked, 1 it failed and the JSON says how, 2 wrong usage.
#ifndef SIDESTEP_TEST_PROBE_H
#define SIDESTEP_TEST_PROBE_H
#include <stdbool.h>
#include <stdint.h>

#include "../common/hash.h"
#include "../common/json.h"
#include "../common/net.h"

int run_connect(int argc, char **argv);
int run_dns(int argc, char **argv);
int run_resolve(int argc, char **argv);
int run_rawsyn(int argc, char **argv);
int run_spoofudp(int argc, char **argv);
int run_bulk(int argc, char **argv);
int run_flood(int argc, char **argv);
int run_many(int argc, char **argv);

// Says on standard error what is wrong with the arguments. Returns 2.
int usage_error(const char *command, const char *what);
// Whole decimal numbers only; ends the program with a usage error otherwise.
uint64_t parse_number(const char *command, const char *text);
// Finishes an object opened with json_object(json, NULL): {"ok": false, "stage", "errno"}, prints it, returns 1.
int finish_failed(struct json *json, const char *stage, int code);
int finish_ok(struct json *json);

// connect(2) issued through io_uring by raw system calls. Returns 0 or an errno.
int uring_connect(int fd, const struct endpoint *to);

#endif
