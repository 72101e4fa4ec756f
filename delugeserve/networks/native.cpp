// BatchNorm with ReLU, and cross-layer sums of normalised outputs, in training on a CPU.
//
// Tensors are matrices of `rows` x `width` numbers, float or bfloat16: images in channels-last
// memory, in which `fold` pixels form a row, so that width = fold * channels is a multiple of 32.
// Arithmetic is in float; totals over chunks of rows are added in double, in the same order for any
// number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kBlock = 32;   // columns that are processed together
constexpr int kTile = 64;    // rows that stay in the L1 cache
// Of each of many tensors, few numbers are read at a time: the processor recognises streams that
// advance evenly, and fetches them in advance.
constexpr int kStream = 8 * kBlock;
constexpr int kChunks = 64;  // parts of the rows, each with totals of its own

// The vector extensions of GCC and Clang, for any processor: 16 numbers.
typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

struct Bf16 {
  uint16_t bits;
};

// A block of columns: 32 numbers.
struct Pack {
  Floats low, high;
  Pack() : low{}, high{} {}
  Pack(Floats low, Floats high) : low(low), high(high) {}
  explicit Pack(const float* p) {
    std::memcpy(&low, p, 64);
    std::memcpy(&high, p + 16, 64);
  }
  explicit Pack(const Bf16* p) : low(widen(p)), high(widen(p + 16)) {}
  void store(float* p) const {
    std::memcpy(p, &low, 64);
    std::memcpy(p + 16, &high, 64);
  }
  void store(Bf16* p) const {
    narrow(low, p);
    narrow(high, p + 16);
  }

 private:
  static Floats widen(const Bf16* p) {
    Halves halves;
    std::memcpy(&halves, p, 32);
    return (Floats)(__builtin_convertvector(halves, Words) << 16);
  }
  static void narrow(Floats x, Bf16* p) {  // rounds to nearest, ties to even
    const Words bits = (Words)x;
    const Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Halves halves = __builtin_convertvector(rounded, Halves);
    std::memcpy(p, &halves, 32);
  }
};

inline Pack operator+(Pack a, Pack b) { return {a.low + b.low, a.high + b.high}; }
inline Pack operator-(Pack a, Pack b) { return {a.low - b.low, a.high - b.high}; }
inline Pack operator*(Pack a, Pack b) { return {a.low * b.low, a.high * b.high}; }

// x where a > 0, else 0.
inline Pack where_positive(Pack a, Pack x) {
  const Floats zero{};
  return {a.low > zero ? x.low : zero, a.high > zero ? x.high : zero};
}
// max(x, 0); NaN stays.
inline Pack rectify(Pack x) {
  const Floats zero{};
  return {x.low < zero ? zero : x.low, x.high < zero ? zero : x.high};
}
template <class T>
void add_to(T* totals, Pack sum) {
  (Pack(totals) + sum).store(totals);
}

inline float load(const float* p) { return *p; }
inline float load(const Bf16* p) {
  const uint32_t bits = static_cast<uint32_t>(p->bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// A vector of channels, repeated for the pixels of a row.
std::vector<float> repeat(const float* channels, int count, int fold) {
  std::vector<float> row(static_cast<size_t>(count) * fold);
  for (int f = 0; f < fold; ++f) std::copy_n(channels, count, row.begin() + f * count);
  return row;
}

// Calls work(chunk, first row, end) for all chunks.
template <class Work>
void for_chunks(int64_t rows, int threads, Work work) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int chunk = 0; chunk < kChunks; ++chunk)
    work(chunk, rows * chunk / kChunks, rows * (chunk + 1) / kChunks);
}

// Adds up the chunks' totals `[chunks, sets, width]` to `[sets, channels]`.
std::vector<double> total(const std::vector<float>& parts, int sets, int channels, int fold) {
  std::vector<double> sums(static_cast<size_t>(sets) * channels, 0.0);
  size_t at = 0;
  for (int chunk = 0; chunk < kChunks; ++chunk)
    for (int set = 0; set < sets; ++set)
      for (int f = 0; f < fold; ++f)
        for (int c = 0; c < channels; ++c) sums[static_cast<size_t>(set) * channels + c] += parts[at++];
  return sums;
}

// Mean and variance of the channels. Sums are of differences to the first pixel, as a large mean
// would cancel the digits of the variance.
template <class T>
void moments(const T* x, int64_t rows, int channels, int fold, int threads, float* mean,
             float* variance) {
  const int width = channels * fold;
  std::vector<float> first(channels);
  for (int c = 0; c < channels; ++c) first[c] = load(x + c);
  const std::vector<float> shift = repeat(first.data(), channels, fold);
  std::vector<float> parts(static_cast<size_t>(kChunks) * 2 * width);
  for_chunks(rows, threads, [&](int chunk, int64_t begin, int64_t end) {
    float* sums = parts.data() + static_cast<size_t>(chunk) * 2 * width;
    std::fill_n(sums, 2 * width, 0.0f);
    for (int64_t tile = begin; tile < end; tile += kTile) {
      const int64_t stop = std::min(end, tile + kTile);
      for (int at = 0; at < width; at += kBlock) {
        const Pack origin(shift.data() + at);
        Pack sum, square;
        for (int64_t row = tile; row < stop; ++row) {
          const Pack value = Pack(x + row * width + at) - origin;
          sum = sum + value;
          square = square + value * value;
        }
        add_to(sums + at, sum);
        add_to(sums + width + at, square);
      }
    }
  });
  const std::vector<double> sums = total(parts, 2, channels, fold);
  const double count = static_cast<double>(rows) * fold;
  for (int c = 0; c < channels; ++c) {
    const double difference = sums[c] / count;
    mean[c] = static_cast<float>(first[c] + difference);
    variance[c] = static_cast<float>(
        std::max(0.0, sums[channels + c] / count - difference * difference));
  }
}

// y = scale * x + shift, with a ReLU or without.
template <class T>
void affine(const T* x, int64_t rows, int width, int threads, const float* scale,
            const float* shift, bool relu, T* y) {
  for_chunks(rows, threads, [&](int, int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; tile += kTile) {
      const int64_t stop = std::min(end, tile + kTile);
      for (int at = 0; at < width; at += kBlock) {
        const Pack factor(scale + at), offset(shift + at);
        for (int64_t row = tile; row < stop; ++row) {
          const Pack value = Pack(x + row * width + at) * factor + offset;
          (relu ? rectify(value) : value).store(y + row * width + at);
        }
      }
    }
  });
}

// Writes a BatchNorm as y = scale * x + shift.
void fold_norm(int channels, double eps, const float* weight, const float* bias, const float* mean,
               const float* variance, std::vector<float>& scale, std::vector<float>& shift) {
  scale.resize(channels);
  shift.resize(channels);
  for (int c = 0; c < channels; ++c) {
    const double factor = weight[c] / std::sqrt(variance[c] + eps);
    scale[c] = static_cast<float>(factor);
    shift[c] = static_cast<float>(bias[c] - mean[c] * factor);
  }
}

template <class T>
void norm_forward(const T* x, int64_t rows, int channels, int fold, int threads, double eps,
                  const float* weight, const float* bias, bool relu, T* y, float* mean,
                  float* variance) {
  moments(x, rows, channels, fold, threads, mean, variance);
  if (!y) return;
  std::vector<float> scale, shift;
  fold_norm(channels, eps, weight, bias, mean, variance, scale, shift);
  const std::vector<float> scales = repeat(scale.data(), channels, fold);
  const std::vector<float> shifts = repeat(shift.data(), channels, fold);
  affine(x, rows, channels * fold, threads, scales.data(), shifts.data(), relu, y);
}

template <class T>
void norm_backward(const T* dy, const T* x, int64_t rows, int channels, int fold, int threads,
                   double eps, const float* weight, const float* bias, const float* mean,
                   const float* variance, bool relu, T* dx, float* dweight, float* dbias) {
  const int width = channels * fold;
  std::vector<float> scale, shift;
  fold_norm(channels, eps, weight, bias, mean, variance, scale, shift);
  const std::vector<float> scales = repeat(scale.data(), channels, fold);
  const std::vector<float> shifts = repeat(shift.data(), channels, fold);
  const std::vector<float> means = repeat(mean, channels, fold);
  std::vector<float> parts(static_cast<size_t>(kChunks) * 2 * width);
  for_chunks(rows, threads, [&](int chunk, int64_t begin, int64_t end) {
    float* sums = parts.data() + static_cast<size_t>(chunk) * 2 * width;
    std::fill_n(sums, 2 * width, 0.0f);
    for (int64_t tile = begin; tile < end; tile += kTile) {
      const int64_t stop = std::min(end, tile + kTile);
      for (int at = 0; at < width; at += kBlock) {
        const Pack factor(scales.data() + at), offset(shifts.data() + at);
        const Pack centre(means.data() + at);
        Pack sum, product;
        for (int64_t row = tile; row < stop; ++row) {
          const Pack value(x + row * width + at);
          Pack gradient(dy + row * width + at);
          if (relu) gradient = where_positive(value * factor + offset, gradient);
          sum = sum + gradient;
          product = product + gradient * (value - centre);
        }
        add_to(sums + at, sum);
        add_to(sums + width + at, product);
      }
    }
  });
  // dx = scale * (g - mean(g) - (x - mean) / variance * mean(g * (x - mean)))
  const std::vector<double> sums = total(parts, 2, channels, fold);
  const double count = static_cast<double>(rows) * fold;
  std::vector<float> slope(channels), offset(channels);
  for (int c = 0; c < channels; ++c) {
    const double variance_ = variance[c] + eps, factor = weight[c] / std::sqrt(variance_);
    const double slope_ = -factor * sums[channels + c] / (count * variance_);
    slope[c] = static_cast<float>(slope_);
    offset[c] = static_cast<float>(-factor * sums[c] / count - slope_ * mean[c]);
    dweight[c] = static_cast<float>(sums[channels + c] / std::sqrt(variance_));
    dbias[c] = static_cast<float>(sums[c]);
  }
  const std::vector<float> slopes = repeat(slope.data(), channels, fold);
  const std::vector<float> offsets = repeat(offset.data(), channels, fold);
  for_chunks(rows, threads, [&](int, int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; tile += kTile) {
      const int64_t stop = std::min(end, tile + kTile);
      for (int at = 0; at < width; at += kBlock) {
        const Pack factor(scales.data() + at), offset(shifts.data() + at);
        const Pack slope_(slopes.data() + at), constant(offsets.data() + at);
        for (int64_t row = tile; row < stop; ++row) {
          const Pack value(x + row * width + at);
          Pack gradient(dy + row * width + at);
          if (relu) gradient = where_positive(value * factor + offset, gradient);
          (gradient * factor + value * slope_ + constant).store(dx + row * width + at);
        }
      }
    }
  });
}

// out = sum_i weight[i] * inputs[i] + bias
template <class T>
void weighted_sum(const T* const* inputs, int count, int64_t rows, int channels, int fold,
                  int threads, const float* weight, const float* bias, T* out) {
  const int width = channels * fold;
  const int64_t step = std::max(1, kStream / width);
  const std::vector<float> biases = repeat(bias, channels, fold);
  std::vector<float> weights;
  for (int i = 0; i < count; ++i) {
    const std::vector<float> row = repeat(weight + i * channels, channels, fold);
    weights.insert(weights.end(), row.begin(), row.end());
  }
  for_chunks(rows, threads, [&](int, int64_t begin, int64_t end) {
    Pack sums[kStream / kBlock];
    for (int64_t tile = begin; tile < end; tile += step) {
      const int number = static_cast<int>(std::min<int64_t>(step, end - tile));
      for (int at = 0; at < width; at += kBlock) {
        std::fill_n(sums, number, Pack(biases.data() + at));
        for (int i = 0; i < count; ++i) {
          const T* in = inputs[i] + tile * width + at;
          const Pack factor(weights.data() + static_cast<size_t>(i) * width + at);
          for (int r = 0; r < number; ++r) sums[r] = sums[r] + factor * Pack(in + r * width);
        }
        T* to = out + tile * width + at;
        for (int r = 0; r < number; ++r) sums[r].store(to + r * width);
      }
    }
  });
}

// Gradients of sums `sum_i weight_r[i] * n_i` with respect to one x, where n = (x - mean) /
// sqrt(variance + eps), and its weights. What the normalisation's gradient needs of the gradient of
// n, its mean and its mean product with n, follows from the totals of the readers' gradients, which
// are given, and the weights' gradients.
template <class T>
void outputs_backward(const T* const* gradients, int count, const T* x, int64_t rows, int channels,
                      int fold, int threads, double eps, const float* weight, const float* totals,
                      const float* mean, const float* variance, T* dx, float* dweight) {
  const int width = channels * fold;
  const int64_t step = std::max(1, kStream / width);
  std::vector<float> weights;
  for (int r = 0; r < count; ++r) {
    const std::vector<float> row = repeat(weight + r * channels, channels, fold);
    weights.insert(weights.end(), row.begin(), row.end());
  }
  const std::vector<float> means = repeat(mean, channels, fold);
  const size_t stride = static_cast<size_t>(count) * width;
  std::vector<float> parts(kChunks * stride);
  for_chunks(rows, threads, [&](int chunk, int64_t begin, int64_t end) {
    float* all = parts.data() + chunk * stride;
    std::fill_n(all, stride, 0.0f);
    Pack sums[kStream / kBlock], values[kStream / kBlock];
    for (int64_t tile = begin; tile < end; tile += step) {
      const int number = static_cast<int>(std::min<int64_t>(step, end - tile));
      for (int at = 0; at < width; at += kBlock) {
        const T* in = x + tile * width + at;
        const Pack centre(means.data() + at);
        for (int r = 0; r < number; ++r) values[r] = Pack(in + r * width) - centre;
        std::fill_n(sums, number, Pack());
        for (int i = 0; i < count; ++i) {
          const T* from = gradients[i] + tile * width + at;
          const Pack factor(weights.data() + static_cast<size_t>(i) * width + at);
          Pack product;
          for (int r = 0; r < number; ++r) {
            const Pack gradient(from + r * width);
            sums[r] = sums[r] + factor * gradient;
            product = product + gradient * values[r];
          }
          add_to(all + static_cast<size_t>(i) * width + at, product);
        }
        T* to = dx + tile * width + at;
        for (int r = 0; r < number; ++r) sums[r].store(to + r * width);
      }
    }
  });
  const std::vector<double> sums = total(parts, count, channels, fold);
  const double pixels = static_cast<double>(rows) * fold;
  std::vector<float> scale(channels), slope(channels), offset(channels);
  for (int c = 0; c < channels; ++c) {
    const double variance_ = variance[c] + eps, factor = 1 / std::sqrt(variance_);
    double sum = 0, product = 0;
    for (int r = 0; r < count; ++r) {
      const double w = weight[r * channels + c];
      const double both = sums[static_cast<size_t>(r) * channels + c];
      sum += w * totals[r * channels + c];
      product += w * both;
      dweight[r * channels + c] = static_cast<float>(both * factor);
    }
    const double slope_ = -factor * product / (pixels * variance_);
    scale[c] = static_cast<float>(factor);
    slope[c] = static_cast<float>(slope_);
    offset[c] = static_cast<float>(-factor * sum / pixels - slope_ * mean[c]);
  }
  const std::vector<float> scales = repeat(scale.data(), channels, fold);
  const std::vector<float> slopes = repeat(slope.data(), channels, fold);
  const std::vector<float> offsets = repeat(offset.data(), channels, fold);
  for_chunks(rows, threads, [&](int, int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; tile += kTile) {
      const int64_t stop = std::min(end, tile + kTile);
      for (int at = 0; at < width; at += kBlock) {
        const Pack factor(scales.data() + at), slope_(slopes.data() + at);
        const Pack constant(offsets.data() + at);
        for (int64_t row = tile; row < stop; ++row) {
          T* out = dx + row * width + at;
          (Pack(out) * factor + Pack(x + row * width + at) * slope_ + constant).store(out);
        }
      }
    }
  });
}

}  // namespace

// The same functions by name for ctypes, for both types.
#define EXPORT(NAME, T)                                                                           \
  extern "C" void norm_forward_##NAME(const T* x, int64_t rows, int channels, int fold,           \
                                      int threads, double eps, const float* weight,               \
                                      const float* bias, int relu, T* y, float* mean,             \
                                      float* variance) {                                          \
    norm_forward(x, rows, channels, fold, threads, eps, weight, bias, relu != 0, y, mean,         \
                 variance);                                                                       \
  }                                                                                               \
  extern "C" void norm_backward_##NAME(                                                           \
      const T* dy, const T* x, int64_t rows, int channels, int fold, int threads, double eps,     \
      const float* weight, const float* bias, const float* mean, const float* variance, int relu, \
      T* dx, float* dweight, float* dbias) {                                                      \
    norm_backward(dy, x, rows, channels, fold, threads, eps, weight, bias, mean, variance,        \
                  relu != 0, dx, dweight, dbias);                                                 \
  }                                                                                               \
  extern "C" void weighted_sum_##NAME(const T* const* inputs, int count, int64_t rows,            \
                                      int channels, int fold, int threads, const float* weight,   \
                                      const float* bias, T* out) {                                \
    weighted_sum(inputs, count, rows, channels, fold, threads, weight, bias, out);                \
  }                                                                                               \
  extern "C" void outputs_backward_##NAME(                                                        \
      const T* const* gradients, int count, const T* x, int64_t rows, int channels, int fold,     \
      int threads, double eps, const float* weight, const float* totals, const float* mean,       \
      const float* variance, T* dx, float* dweight) {                                             \
    outputs_backward(gradients, count, x, rows, channels, fold, threads, eps, weight, totals,     \
                     mean, variance, dx, dweight);                                                \
  }

EXPORT(float32, float)
EXPORT(bfloat16, Bf16)
