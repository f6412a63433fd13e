// See net.h.
#include "net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

bool endpoint_parse(const char *host, const char *port, struct endpoint *out, const char **reason) {
  struct addrinfo *found = NULL;
  const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
  const int code = getaddrinfo(host, port, &hints, &found);
  if (code != 0) {
    *reason = gai_strerror(code);
    return false;
  }
  *out = (struct endpoint){.length = found->ai_addrlen};
  memcpy(&out->addr, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return true;
}

bool endpoint_parse_joined(const char *text, const char *default_port, struct endpoint *out, const char **reason) {
  char host[256];
  if (strlen(text) >= sizeof host) {
    *reason = "address too long";
    return false;
  }
  strcpy(host, text);
  const char *port = default_port;
  char *start = host;
  char *colon = strrchr(host, ':');
  if (host[0] == '[') {
    char *close = strchr(host, ']');
    if (!close) {
      *reason = "no closing bracket";
      return false;
    }
    *close = '\0';
    start = host + 1;
    if (close[1] == ':') port = close + 2;
  } else if (colon && strchr(host, ':') == colon) {
    *colon = '\0';
    port = colon + 1;
  }
  return endpoint_parse(start, port, out, reason);
}

void endpoint_text(const struct endpoint *endpoint, char out[endpoint_text_size]) {
  char ip[INET6_ADDRSTRLEN] = "";
  if (endpoint->addr.ss_family == AF_INET) {
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)&endpoint->addr;
    inet_ntop(AF_INET, &v4->sin_addr, ip, sizeof ip);
    snprintf(out, endpoint_text_size, "%s:%u", ip, ntohs(v4->sin_port));
  } else if (endpoint->addr.ss_family == AF_INET6) {
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&endpoint->addr;
    inet_ntop(AF_INET6, &v6->sin6_addr, ip, sizeof ip);
    snprintf(out, endpoint_text_size, "[%s]:%u", ip, ntohs(v6->sin6_port));
  } else {
    snprintf(out, endpoint_text_size, "family %d", endpoint->addr.ss_family);
  }
}

bool endpoint_equal(const struct endpoint *a, const struct endpoint *b) {
  char text_a[endpoint_text_size];
  char text_b[endpoint_text_size];
  endpoint_text(a, text_a);
  endpoint_text(b, text_b);
  return strcmp(text_a, text_b) == 0;
}

void endpoint_map_v4(struct endpoint *endpoint) {
  if (endpoint->addr.ss_family != AF_INET) return;
  const struct sockaddr_in v4 = *(const struct sockaddr_in *)&endpoint->addr;
  *endpoint = (struct endpoint){.length = sizeof(struct sockaddr_in6)};
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&endpoint->addr;
  v6->sin6_family = AF_INET6;
  v6->sin6_port = v4.sin_port;
  v6->sin6_addr.s6_addr[10] = v6->sin6_addr.s6_addr[11] = 0xff;
  memcpy(&v6->sin6_addr.s6_addr[12], &v4.sin_addr, 4);
}

uint16_t endpoint_port(const struct endpoint *endpoint) {
  // Both families keep the port at the same place.
  return ntohs(((const struct sockaddr_in *)&endpoint->addr)->sin_port);
}

const char *errno_text(int code) {
  const char *name = strerrorname_np(code);
  return name ? name : "UNKNOWN";
}

int64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

double elapsed_ms(int64_t since_ns) { return (double)(now_ns() - since_ns) / 1e6; }

void raise_open_files(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  // A refusal shows itself later as EMFILE, which is reported.
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

void json_endpoint(struct json *json, const char *key, const struct endpoint *endpoint) {
  char text[endpoint_text_size];
  endpoint_text(endpoint, text);
  json_text(json, key, text);
}

void json_socket_names(struct json *json, const char *key, int fd) {
  struct endpoint name = {.length = sizeof name.addr};
  json_object(json, key);
  if (getsockname(fd, (struct sockaddr *)&name.addr, &name.length) == 0) {
    json_endpoint(json, "local", &name);
  } else {
    json_text(json, "localErrno", errno_text(errno));
  }
  name = (struct endpoint){.length = sizeof name.addr};
  if (getpeername(fd, (struct sockaddr *)&name.addr, &name.length) == 0) {
    json_endpoint(json, "peer", &name);
  } else {
    json_text(json, "peerErrno", errno_text(errno));
  }
  json_object_end(json);
}

bool wait_for(int fd, short events, int64_t deadline_ns) {
  for (;;) {
    const int64_t left_ns = deadline_ns - now_ns();
    if (left_ns <= 0) return false;
    struct pollfd entry = {.fd = fd, .events = events};
    const int64_t left_ms = left_ns / 1000000 + 1;
    const int count = poll(&entry, 1, left_ms > 1000000 ? 1000000 : (int)left_ms);
    if (count > 0) return true;
    if (count < 0 && errno != EINTR) return true;
  }
}

int connect_within(int fd, const struct endpoint *to, int64_t deadline_ns) {
  const int flags = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, flags | O_NONBLOCK);
  int code = connect(fd, (const struct sockaddr *)&to->addr, to->length) == 0 ? 0 : errno;
  if (code == EINPROGRESS) {
    socklen_t length = sizeof code;
    if (!wait_for(fd, POLLOUT, deadline_ns)) {
      code = ETIMEDOUT;
    } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &length) != 0) {
      code = errno;
    }
  }
  fcntl(fd, F_SETFL, flags);
  return code;
}
