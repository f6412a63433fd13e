// Addresses, time and limits for the test applications. Everything here is ordinary socket code: no test application
// may know that a mesh exists.
#ifndef SIDESTEP_TEST_NET_H
#define SIDESTEP_TEST_NET_H
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "json.h"

enum { endpoint_text_size = 80 };

struct endpoint {
  struct sockaddr_storage addr;
  socklen_t length;
};

// Host is an address or a name (the resolver's first answer wins). False: `reason` says why.
bool endpoint_parse(const char *host, const char *port, struct endpoint *out, const char **reason);
// `1.2.3.4:80`, `[::1]:80`, or an address alone with the default port.
bool endpoint_parse_joined(const char *text, const char *default_port, struct endpoint *out, const char **reason);
// `1.2.3.4:80`, `[::1]:80`, `[::ffff:1.2.3.4]:80`: mapped addresses are shown as such.
void endpoint_text(const struct endpoint *endpoint, char out[endpoint_text_size]);
bool endpoint_equal(const struct endpoint *a, const struct endpoint *b);
// IPv4 becomes ::ffff:a.b.c.d, as the JVM and other dual-stack runtimes spell it; IPv6 is left alone.
void endpoint_map_v4(struct endpoint *endpoint);
uint16_t endpoint_port(const struct endpoint *endpoint);

const char *errno_text(int code);
int64_t now_ns(void);
double elapsed_ms(int64_t since_ns);
// Lifts the soft limit on open files to the hard one.
void raise_open_files(void);

// Writes {"local": ..., "peer": ...} as getsockname and getpeername tell it; a refusal is {"peerErrno": "ENOTCONN"}.
void json_socket_names(struct json *json, const char *key, int fd);
void json_endpoint(struct json *json, const char *key, const struct endpoint *endpoint);

// Waits until poll reports one of `events` or an error. Returns false when `deadline_ns` passes first.
bool wait_for(int fd, short events, int64_t deadline_ns);
// Connects with a time limit whatever mode the socket is in, and leaves the mode as it was. Returns 0 or an errno.
int connect_within(int fd, const struct endpoint *to, int64_t deadline_ns);

#endif
