// `load hold`: opens connections, proves each with one byte there and back, says so, keeps them idle for whoever measures
// memory meanwhile, proves each again and closes them. Ends early when its standard input ends.
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "load.h"

static bool prove(int fd) {
  char byte = 'x';
  return send_all(fd, &byte, 1) && read_all(fd, &byte, 1);
}

static void announce(int connected, double ms) {
  struct json json = {0};
  json_object(&json, NULL);
  json_text(&json, "event", "holding");
  json_int(&json, "connected", connected);
  json_number(&json, "openedMs", ms);
  json_object_end(&json);
  json_print(&json);
}

int run_hold(const struct load_options *options) {
  int *fds = calloc((size_t)options->count + 1, sizeof *fds);
  int connected = 0;
  int alive = 0;
  if (!fds) abort();
  const int64_t start = now_ns();
  for (int i = 0; i < options->count; i++) {
    fds[connected] = open_stream(options, peer_echo);
    if (fds[connected] >= 0 && prove(fds[connected])) {
      connected++;
    } else {
      count_failure(errno);
      if (fds[connected] >= 0) close(fds[connected]);
    }
  }
  announce(connected, elapsed_ms(start));
  wait_for(STDIN_FILENO, POLLIN, now_ns() + (int64_t)options->seconds * 1000000000);
  for (int i = 0; i < connected; i++) {
    if (prove(fds[i])) alive++;
    else count_failure(errno);
    close(fds[i]);
  }
  free(fds);
  struct json json = {0};
  json_object(&json, NULL);
  json_text(&json, "measure", "hold");
  json_int(&json, "asked", options->count);
  json_int(&json, "connected", connected);
  json_int(&json, "alive", alive);
  json_failures(&json, "failures");
  json_bool(&json, "ok", alive == options->count);
  json_object_end(&json);
  json_print(&json);
  return alive == options->count ? 0 : 1;
}
