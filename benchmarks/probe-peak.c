/*
 * The limits that benchmarks/probe-peak.ts compares ours with, in C with AVX2: multiply-adds in 12 registers of 8 lanes, a
 * copy by memcpy, a copy and reads (1, 2, 4, 8 streams) by vectors. Each line: what, best GFLOP/s or GB/s of all rounds.
 *   cc -O3 -march=native -pthread probe-peak.c -o probe-peak && ./probe-peak THREADS MIB ROUNDS
 */
#include <immintrin.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TURNS = 4 << 20, MOST_THREADS = 64, STREAMS = 4 };
static const char *names[] = {"multiply-add", "copy bulk", "copy vectors", "read 1", "read 2", "read 4", "read 8"};
enum { KINDS = sizeof names / sizeof *names };

static int threads, rounds;
static size_t bytes;
static char *from, *to;
static pthread_barrier_t barrier;
static volatile float sink[MOST_THREADS][16];

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void multiply_add(int me) {
  __m256 a = _mm256_set1_ps(1e-3f + (float)me), b0 = _mm256_set1_ps(1e-4f), b1 = _mm256_set1_ps(2e-4f), s[12];
  for (int i = 0; i < 12; i++) s[i] = _mm256_set1_ps((float)i);
  for (int t = 0; t < TURNS; t++) {
    for (int i = 0; i < 12; i += 2) {
      s[i] = _mm256_fmadd_ps(a, b0, s[i]);
      s[i + 1] = _mm256_fmadd_ps(a, b1, s[i + 1]);
    }
    /* Keeps the compiler from taking the loop apart; costs no instruction. */
    __asm__ volatile("" : "+x"(s[0]), "+x"(s[1]), "+x"(s[2]), "+x"(s[3]), "+x"(s[4]), "+x"(s[5]));
    __asm__ volatile("" : "+x"(s[6]), "+x"(s[7]), "+x"(s[8]), "+x"(s[9]), "+x"(s[10]), "+x"(s[11]));
  }
  for (int i = 1; i < 12; i++) s[0] = _mm256_add_ps(s[0], s[i]);
  sink[me][0] = _mm256_cvtss_f32(s[0]);
}

static void copy_vectors(char *target, const char *source, size_t length) {
  for (size_t i = 0; i < length; i += 128) {
    __m256i v[4];
    for (int j = 0; j < 4; j++) v[j] = _mm256_loadu_si256((const __m256i *)(source + i) + j);
    for (int j = 0; j < 4; j++) _mm256_storeu_si256((__m256i *)(target + i) + j, v[j]);
    __asm__ volatile("" ::: "memory");
  }
}

/* Reads `length` bytes in several streams, chunk of 1 MiB by chunk, as ours does. */
static void read_streams(int me, const char *source, size_t length, int streams) {
  enum { CHUNK = 1 << 20 };
  __m256 s[8];
  for (int i = 0; i < 8; i++) s[i] = _mm256_setzero_ps();
  int vectors = streams >= STREAMS ? 1 : STREAMS / streams;
  for (size_t chunk = 0; chunk < length; chunk += CHUNK)
    for (size_t i = 0; i < (size_t)(CHUNK / streams); i += 32 * vectors)
      for (int t = 0; t < streams; t++)
        for (int v = 0; v < vectors; v++)
          s[(t * vectors + v) & 7] = _mm256_add_ps(
              s[(t * vectors + v) & 7], _mm256_loadu_ps((const float *)(source + chunk + (size_t)t * (CHUNK / streams) + i + 32 * v)));
  for (int i = 1; i < 8; i++) s[0] = _mm256_add_ps(s[0], s[i]);
  sink[me][0] = _mm256_cvtss_f32(s[0]);
}

static void once(int kind, int me) {
  size_t part = bytes / threads, at = part * me;
  switch (kind) {
    case 0: multiply_add(me); break;
    case 1: memcpy(to + at, from + at, part); break;
    case 2: copy_vectors(to + at, from + at, part); break;
    case 3: read_streams(me, from + at, part, 1); break;
    case 4: read_streams(me, from + at, part, 2); break;
    case 5: read_streams(me, from + at, part, 4); break;
    default: read_streams(me, from + at, part, 8);
  }
}

static void *run(void *argument) {
  int me = (int)(size_t)argument;
  double best[KINDS] = {0};
  for (int round = -1; round < rounds; round++)
    for (int kind = 0; kind < KINDS; kind++) {
      pthread_barrier_wait(&barrier);
      double start = now();
      int calls = kind == 0 ? 1 : 4;
      for (int i = 0; i < calls; i++) {
        once(kind, me);
        pthread_barrier_wait(&barrier);
      }
      double work = kind == 0 ? 2.0 * 8 * 12 * TURNS * threads : (kind < 3 ? 2.0 : 1.0) * bytes * calls;
      double rate = work / (now() - start);
      if (round >= 0 && rate > best[kind]) best[kind] = rate;
    }
  if (me == 0)
    for (int kind = 0; kind < KINDS; kind++) printf("%s\t%.3f\n", names[kind], best[kind] / 1e9);
  return NULL;
}

int main(int count, char **arguments) {
  if (count != 4) return 2;
  threads = atoi(arguments[1]);
  bytes = (size_t)atoi(arguments[2]) << 20;
  rounds = atoi(arguments[3]);
  if (threads < 1 || threads > MOST_THREADS || bytes == 0 || rounds < 1) return 2;
  from = aligned_alloc(4096, bytes);
  to = aligned_alloc(4096, bytes);
  memset(from, 0, bytes);
  memset(to, 0, bytes);
  pthread_barrier_init(&barrier, NULL, threads);
  pthread_t others[MOST_THREADS];
  for (int i = 1; i < threads; i++) pthread_create(&others[i], NULL, run, (void *)(size_t)i);
  run((void *)0);
  for (int i = 1; i < threads; i++) pthread_join(others[i], NULL);
  return 0;
}
