// `load serve`: the peer. A few threads share one listening socket; every connection costs a few dozen bytes here, so
// that what is measured is the kernel and the mesh. Answers that do not fit the socket's buffer are waited for: the
// clients of this program never send more than they read back.
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "load.h"

struct connection {
  int fd;
  char mode;
  uint64_t bytes;
};

struct worker {
  int listener;
  int epoll;
  char *buffer;
};

static void close_connection(struct connection *connection) {
  close(connection->fd);
  free(connection);
}

static bool send_waiting(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    const ssize_t count = send(fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count > 0) {
      bytes += count;
      length -= (size_t)count;
    } else if (errno != EAGAIN || !wait_for(fd, POLLOUT, now_ns() + 5000000000)) {
      return false;
    }
  }
  return true;
}

static void accept_all(const struct worker *worker) {
  const int on = 1;
  for (;;) {
    const int fd = accept4(worker->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection) abort();
    connection->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(worker->epoll, EPOLL_CTL_ADD, fd, &event) != 0) close_connection(connection);
  }
}

static void start_source(const struct worker *worker, struct connection *connection) {
  struct epoll_event event = {.events = EPOLLOUT, .data.ptr = connection};
  connection->mode = peer_source;
  epoll_ctl(worker->epoll, EPOLL_CTL_MOD, connection->fd, &event);
}

// What to do with payload that arrived. False: the connection is done.
static bool take_payload(struct connection *connection, const char *bytes, size_t count) {
  connection->bytes += count;
  if (connection->mode == peer_echo) return send_waiting(connection->fd, bytes, count);
  if (connection->mode == peer_answer && connection->bytes >= answer_size) {
    static const char answer[answer_size];
    send_waiting(connection->fd, answer, sizeof answer);
    return false;
  }
  return true;
}

static bool on_readable(const struct worker *worker, struct connection *connection) {
  for (int turn = 0; turn < 4; turn++) {
    const ssize_t count = recv(connection->fd, worker->buffer, buffer_size, 0);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    if (count == 0) {
      if (connection->mode == peer_discard) {
        send_waiting(connection->fd, (const char *)&connection->bytes, sizeof connection->bytes);
      }
      return false;
    }
    const size_t skip = connection->mode == 0 ? 1 : 0;
    if (skip) connection->mode = worker->buffer[0];
    if (connection->mode == peer_source) {
      start_source(worker, connection);
      return true;
    }
    if (!take_payload(connection, worker->buffer + skip, (size_t)count - skip)) return false;
    if (count < buffer_size) return true;
  }
  return true;
}

static bool on_writable(const struct worker *worker, const struct connection *connection) {
  for (int turn = 0; turn < 4; turn++) {
    if (send(connection->fd, worker->buffer, buffer_size, MSG_NOSIGNAL) < 0) return errno == EAGAIN || errno == EINTR;
  }
  return true;
}

static void *run_worker(void *argument) {
  struct worker *worker = argument;
  struct epoll_event accepting = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.ptr = NULL};
  epoll_ctl(worker->epoll, EPOLL_CTL_ADD, worker->listener, &accepting);
  for (;;) {
    struct epoll_event events[64];
    const int count = epoll_wait(worker->epoll, events, 64, -1);
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      if (!connection) {
        accept_all(worker);
      } else {
        const bool sends = connection->mode == peer_source;
        if (!(sends ? on_writable(worker, connection) : on_readable(worker, connection))) close_connection(connection);
      }
    }
  }
  return NULL;
}

static int listen_on(const char *bind_to, const char *port, struct endpoint *bound) {
  const int on = 1;
  const int off = 0;
  const char *reason = "";
  if (!endpoint_parse(bind_to, port, bound, &reason)) return EINVAL;
  const int fd = socket(bound->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -errno;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bound->addr.ss_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (bind(fd, (struct sockaddr *)&bound->addr, bound->length) != 0 || listen(fd, 65535) != 0 ||
      getsockname(fd, (struct sockaddr *)&bound->addr, &bound->length) != 0) {
    const int code = errno;
    close(fd);
    return -code;
  }
  return fd;
}

int run_serve(const char *bind_to, const char *port, int threads) {
  struct endpoint bound;
  const int listener = listen_on(bind_to, port, &bound);
  if (listener < 0) {
    fprintf(stderr, "load serve: %s\n", strerror(-listener));
    return 1;
  }
  struct json json = {0};
  json_object(&json, NULL);
  json_bool(&json, "ready", true);
  json_int(&json, "port", endpoint_port(&bound));
  json_int(&json, "pid", getpid());
  json_object_end(&json);
  json_print(&json);
  pthread_t last = 0;
  for (int i = 0; i < threads; i++) {
    struct worker *worker = calloc(1, sizeof *worker);
    if (!worker || !(worker->buffer = calloc(1, buffer_size))) abort();
    worker->listener = listener;
    worker->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (worker->epoll < 0 || pthread_create(&last, NULL, run_worker, worker) != 0) return 1;
  }
  pthread_join(last, NULL);
  return 0;
}
