// See json.h.
#include "json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void append(struct json *json, const char *text, size_t length) {
  if (json->length + length + 1 > json->capacity) {
    json->capacity = (json->length + length + 1) * 2;
    json->data = realloc(json->data, json->capacity);
    if (!json->data) abort();
  }
  memcpy(json->data + json->length, text, length);
  json->length += length;
  json->data[json->length] = '\0';
}

static void append_text(struct json *json, const char *text) { append(json, text, strlen(text)); }

static void append_quoted(struct json *json, const unsigned char *bytes, size_t length) {
  append_text(json, "\"");
  for (size_t i = 0; i < length; i++) {
    char piece[8];
    const unsigned char c = bytes[i];
    if (c == '"' || c == '\\') {
      snprintf(piece, sizeof piece, "\\%c", c);
    } else if (c < 0x20 || c > 0x7e) {
      snprintf(piece, sizeof piece, "\\u%04x", c);
    } else {
      snprintf(piece, sizeof piece, "%c", c);
    }
    append_text(json, piece);
  }
  append_text(json, "\"");
}

static void start_value(struct json *json, const char *key) {
  if (json->needs_comma) append_text(json, ",");
  if (key) {
    append_quoted(json, (const unsigned char *)key, strlen(key));
    append_text(json, ":");
  }
  json->needs_comma = true;
}

static void open_with(struct json *json, const char *key, const char *bracket) {
  start_value(json, key);
  append_text(json, bracket);
  json->needs_comma = false;
}

static void close_with(struct json *json, const char *bracket) {
  append_text(json, bracket);
  json->needs_comma = true;
}

void json_object(struct json *json, const char *key) { open_with(json, key, "{"); }
void json_object_end(struct json *json) { close_with(json, "}"); }
void json_array(struct json *json, const char *key) { open_with(json, key, "["); }
void json_array_end(struct json *json) { close_with(json, "]"); }

void json_bytes(struct json *json, const char *key, const void *bytes, size_t length) {
  start_value(json, key);
  append_quoted(json, bytes, length);
}

void json_text(struct json *json, const char *key, const char *text) { json_bytes(json, key, text, strlen(text)); }

void json_int(struct json *json, const char *key, int64_t value) {
  char text[32];
  snprintf(text, sizeof text, "%" PRId64, value);
  start_value(json, key);
  append_text(json, text);
}

void json_number(struct json *json, const char *key, double value) {
  char text[64];
  snprintf(text, sizeof text, "%.3f", value);
  start_value(json, key);
  append_text(json, text);
}

void json_bool(struct json *json, const char *key, bool value) {
  start_value(json, key);
  append_text(json, value ? "true" : "false");
}

void json_null(struct json *json, const char *key) {
  start_value(json, key);
  append_text(json, "null");
}

void json_print(struct json *json) {
  append_text(json, "\n");
  fwrite(json->data, 1, json->length, stdout);
  fflush(stdout);
  free(json->data);
  *json = (struct json){0};
}
