// KNOWN before its tanh, fused: the arithmetic of know.prediction.engine.Folded, which documents the matrices. Two vectors
// of scalars at a time pass through all layers in registers and L1, so that nothing is written that is read only once.
//
// What happens to a scalar, and in which order, depends neither on its neighbours nor on the width of the vectors, and what
// is fused is said (so -ffp-contract=off): all processors and compilers give the same bits.

#include <algorithm>
#include <immintrin.h>
#include <vector>

#if !defined(__AVX2__) || !defined(__FMA__)
#error this processor has no AVX2 or no FMA
#elif defined(__AVX512F__)
#define ON_ALL(operation) _mm512_##operation##_ps
typedef __m512 V;
#else
#define ON_ALL(operation) _mm256_##operation##_ps
typedef __m256 V;
#endif
typedef int I __attribute__((vector_size(sizeof(V))));

constexpr int ROWS = 4, COLUMNS = 2;  // of vectors that accumulate at once: all others stay in 16 registers beside them
constexpr int GROUP = COLUMNS * sizeof(V) / 4, GROUPS = 16;  // scalars at a time; groups for which a stream's 16 kB stay in L1
constexpr int Z = 8, X = 64, Y = 32;  // features of KNOWN's squeeze, inner and outer layers

struct Group {
  V v[COLUMNS];
};

#define INLINE static inline __attribute__((always_inline))
#define EACH(i, count) _Pragma("GCC unroll 4") for (int i = 0; i < count; i++)

INLINE V all(float x) { return ON_ALL(set1)(x); }
INLINE V fused(V a, V b, V c) { return ON_ALL(fmadd)(a, b, c); }  // a·b + c
INLINE V max(V a, V b) { return ON_ALL(max)(a, b); }  // b if one is NaN
INLINE V min(V a, V b) { return ON_ALL(min)(a, b); }

// ROWS rows of a matrix, its bias the last column, times `inputs` features.
INLINE void affine(const float *matrix, int inputs, const Group *in, Group (&out)[ROWS]) {
  EACH(r, ROWS) EACH(c, COLUMNS) out[r].v[c] = all(matrix[r * (inputs + 1) + inputs]);
  for (int k = 0; k < inputs; k++) {
    Group x = in[k];
    EACH(c, COLUMNS) asm("" : "+v"(x.v[c]));  // load it once: compilers would in each of the rows
    EACH(r, ROWS) EACH(c, COLUMNS) out[r].v[c] = fused(all(matrix[r * (inputs + 1) + k]), x.v[c], out[r].v[c]);
  }
}

// 2^x, within 1e-7 of it; infinite from 128 on, 0 below -126. NaN stays. The polynomial is that of Cephes' exp2f.
INLINE V exp2(V x) {
  x = min(all(128.5f), max(all(-126), x));
  const V round = all(0x1.8p23f), whole = x + round, f = x - (whole - round);
  V p = all(1.535336188e-4f);
  for (float c : {1.339887440e-3f, 9.618437358e-3f, 5.550332471e-2f, 2.402264791e-1f, 6.931472029e-1f, 1.f}) p = fused(p, f, all(c));
  return p * (V)(((I)whole + 126) << 23) * 2;  // half of 2^128 is a number
}

// One stream of a group: from its `inputs` to its 32 outputs. Returns the matrices that follow its own.
static const float *stream(const float *to_x, int inputs, const Group *in, Group *y) {
  const float *to_z = to_x + X * (inputs + 1), *to_rate = to_z + Z * (inputs + 1), *to_gain = to_rate + X * (Z + 1);
  const float *to_y = to_gain + X * (Z + 1);
  Group ze[Z + X], a[ROWS], *z = ze, *e = ze + Z;
  for (int j = 0; j < Z; j += ROWS) {
    affine(to_z + j * (inputs + 1), inputs, in, a);
    EACH(r, ROWS) EACH(c, COLUMNS) z[j + r].v[c] = max(all(0), a[r].v[c]);
  }
  for (int j = 0; j < X; j += ROWS) {
    affine(to_x + j * (inputs + 1), inputs, in, a);
    EACH(r, ROWS) e[j + r] = a[r];
    affine(to_rate + j * (Z + 1), Z, z, a);
    EACH(r, ROWS) EACH(c, COLUMNS) e[j + r].v[c] = exp2(a[r].v[c] * e[j + r].v[c]);
    affine(to_gain + j * (Z + 1), Z, z, a);
    EACH(r, ROWS) EACH(c, COLUMNS) e[j + r].v[c] *= a[r].v[c];
  }
  for (int j = 0; j < Y; j += ROWS) {
    affine(to_y + j * (Z + X + 1), Z + X, ze, a);
    EACH(r, ROWS) EACH(c, COLUMNS) y[j + r].v[c] = max(0.3f * a[r].v[c], a[r].v[c]);  // LeakyReLU
  }
  return to_y + Y * (Z + X + 1);
}

// A window of `length` rows, `stride` apart, of `count` scalars, to `out`; differences are taken before they are rounded.
template <class T>
static void known(const T *window, long stride, long count, int length, const float *matrices, const float *to_step, float *out) {
  std::vector<Group> inputs(2 * GROUPS * length);
  Group *w = inputs.data(), *d = w + GROUPS * length, step[GROUPS], y[Y];
  for (; count > 0; window += GROUPS * GROUP, out += GROUPS * GROUP, count -= GROUPS * GROUP) {
    const int some = std::min<long>(count, GROUPS * GROUP), groups = (some + GROUP - 1) / GROUP;
    for (int g = 0; g < groups; g++)
      for (int k = 0; k < length; k++) {
        const T *now = window + k * stride + g * GROUP, *next = now + (k + 1 < length ? stride : 0);
        float *wk = (float *)&w[g * length + k], *dk = (float *)&d[g * length + k];
        const int last = std::min(GROUP, some - g * GROUP) - 1;
        for (int i = 0; i < GROUP; i++) {  // the last scalar fills the last group
          const int at = std::min(i, last);
          wk[i] = now[at];
          dk[i] = next[at] - now[at];
        }
      }
    const float *own = matrices, *after = own;
    for (int s = 0; s < 2; s++, own = after)
      for (int g = 0; g < groups; g++) {
        after = stream(own, length - s, (s ? d : w) + g * length, y);
        for (int c = 0; c < COLUMNS; c++) {
          V sum = s ? step[g].v[c] : all(to_step[2 * Y]);
          for (int j = 0; j < Y; j++) sum = fused(all(to_step[s * Y + j]), y[j].v[c], sum);
          step[g].v[c] = sum;
        }
      }
    std::copy_n((const float *)step, some, out);
  }
}

extern "C" void known_float(const float *window, long stride, long count, int length, const float *m, const float *s, float *out) {
  known(window, stride, count, length, m, s, out);
}
extern "C" void known_double(const double *window, long stride, long count, int length, const float *m, const float *s, float *out) {
  known(window, stride, count, length, m, s, out);
}
