// A vector of floats for whatever instruction set the including file was compiled for, on compiler vector extensions.
//
// Include inside a namespace of its own per instruction set, after every standard header and after the target pragma:
// see isa_baseline.h, isa_avx2.h, isa_avx512.h, which define VISIONATTN_LANES (floats per vector).

template <typename Scalar>
struct Lanes;
template <>
struct Lanes<float> {
  static constexpr int kCount = VISIONATTN_LANES;
  typedef float Vector __attribute__((vector_size(VISIONATTN_LANES * 4)));
};
template <>
struct Lanes<double> {
  static constexpr int kCount = VISIONATTN_LANES / 2;
  typedef double Vector __attribute__((vector_size(VISIONATTN_LANES * 4)));
};

template <typename Scalar>
using Vec = typename Lanes<Scalar>::Vector;

typedef float FloatVec __attribute__((vector_size(VISIONATTN_LANES * 4)));
typedef int32_t IntVec __attribute__((vector_size(VISIONATTN_LANES * 4)));
typedef uint32_t WordVec __attribute__((vector_size(VISIONATTN_LANES * 4)));
typedef uint16_t HalfWordVec __attribute__((vector_size(VISIONATTN_LANES * 2)));

template <typename To, typename From>
inline To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename Vector, typename T>
inline Vector load_as(const T* source) {
  Vector v;
  std::memcpy(&v, source, sizeof(v));
  return v;
}

// Storage types of tensors, and how they are widened to and narrowed from the type that is computed in.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename T>
struct Compute {
  using Type = float;
};
template <>
struct Compute<double> {
  using Type = double;
};

inline FloatVec load(const float* source) { return load_as<FloatVec>(source); }
inline Vec<double> load(const double* source) { return load_as<Vec<double>>(source); }
inline FloatVec load(const BFloat16* source) {
  const WordVec wide = __builtin_convertvector(load_as<HalfWordVec>(source), WordVec);
  return bits_as<FloatVec>(wide << 16);
}
inline void store(float* target, const FloatVec& v) { std::memcpy(target, &v, sizeof(v)); }
inline void store(double* target, const Vec<double>& v) { std::memcpy(target, &v, sizeof(v)); }
inline void store(BFloat16* target, const FloatVec& v) {
  const WordVec bits = bits_as<WordVec>(v);
  const WordVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  const IntVec is_nan = v != v;
  const WordVec result = (bits_as<WordVec>(is_nan) & 0x7fc0) | (~bits_as<WordVec>(is_nan) & rounded);
  const HalfWordVec narrow = __builtin_convertvector(result, HalfWordVec);
  std::memcpy(target, &narrow, sizeof(narrow));
}

#if VISIONATTN_F16C && VISIONATTN_LANES == 16
inline FloatVec load(const Half* source) {
  return bits_as<FloatVec>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source))));
}
inline void store(Half* target, const FloatVec& v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target),
                      _mm512_cvtps_ph(bits_as<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#elif VISIONATTN_F16C
inline FloatVec load(const Half* source) {
  return bits_as<FloatVec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
}
inline void store(Half* target, const FloatVec& v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_cvtps_ph(bits_as<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
}
#else
inline FloatVec load(const Half* source) {
  FloatVec v;
  for (int i = 0; i < VISIONATTN_LANES; ++i) {
    v[i] = torch::headeronly::detail::fp16_ieee_to_fp32_value(source[i].bits);
  }
  return v;
}
inline void store(Half* target, const FloatVec& v) {
  for (int i = 0; i < VISIONATTN_LANES; ++i) {
    target[i].bits = torch::headeronly::detail::fp16_ieee_from_fp32_value(v[i]);
  }
}
#endif

// The first `count` lanes; the others are zero.
template <typename T>
inline Vec<typename Compute<T>::Type> load_first(const T* source, int count) {
  T padded[Lanes<typename Compute<T>::Type>::kCount] = {};
  std::memcpy(padded, source, count * sizeof(T));
  return load(padded);
}

template <typename T>
inline void store_first(T* target, const Vec<typename Compute<T>::Type>& v, int count) {
  T padded[Lanes<typename Compute<T>::Type>::kCount];
  store(padded, v);
  std::memcpy(target, padded, count * sizeof(T));
}

template <typename Scalar>
inline Vec<Scalar> broadcast(Scalar x) {
  return Vec<Scalar>{} + x;
}

template <typename Vector>
inline auto sum_lanes(const Vector& v) {
  auto total = v[0];
  for (size_t i = 1; i < sizeof(v) / sizeof(v[0]); ++i) total += v[i];
  return total;
}

// Lane i of the result is the sum of the lanes of v[i].
inline Vec<double> sum_each(const Vec<double>* v) {
  Vec<double> result;
  for (int i = 0; i < Lanes<double>::kCount; ++i) result[i] = sum_lanes(v[i]);
  return result;
}
#if VISIONATTN_LANES == 16 && defined(__x86_64__)
inline __m256 fold(const FloatVec& v) {
  const __m512d whole = (__m512d)v;
  return _mm256_add_ps(_mm256_castpd_ps(_mm512_castpd512_pd256(whole)),
                       _mm256_castpd_ps(_mm512_extractf64x4_pd(whole, 1)));
}
#elif VISIONATTN_LANES == 8 && defined(__x86_64__)
inline __m256 fold(const FloatVec& v) { return (__m256)v; }
#endif

#if VISIONATTN_LANES >= 8 && defined(__x86_64__)
inline __m256 sum_each_of_8(const FloatVec* v) {
  const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(fold(v[0]), fold(v[1])), _mm256_hadd_ps(fold(v[2]), fold(v[3])));
  const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(fold(v[4]), fold(v[5])), _mm256_hadd_ps(fold(v[6]), fold(v[7])));
  return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
#endif
#if VISIONATTN_LANES == 16 && defined(__x86_64__)
inline FloatVec sum_each(const FloatVec* v) {
  const __m512d low = _mm512_castpd256_pd512(_mm256_castps_pd(sum_each_of_8(v)));
  return (FloatVec)_mm512_insertf64x4(low, _mm256_castps_pd(sum_each_of_8(v + 8)), 1);
}
#elif VISIONATTN_LANES == 8 && defined(__x86_64__)
inline FloatVec sum_each(const FloatVec* v) { return (FloatVec)sum_each_of_8(v); }
#elif defined(__x86_64__)
inline FloatVec sum_each(const FloatVec* v) {
  __m128 a = (__m128)v[0], b = (__m128)v[1], c = (__m128)v[2], d = (__m128)v[3];
  _MM_TRANSPOSE4_PS(a, b, c, d);
  return (FloatVec)_mm_add_ps(_mm_add_ps(a, b), _mm_add_ps(c, d));
}
#else
inline FloatVec sum_each(const FloatVec* v) {
  FloatVec result;
  for (int i = 0; i < VISIONATTN_LANES; ++i) result[i] = sum_lanes(v[i]);
  return result;
}
#endif

// e^x for x <= 0 (above, up to about 88): Cody-Waite reduction and a polynomial, relative error below 2e-7.
inline FloatVec exp_of(const FloatVec& x) {
  const FloatVec magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const FloatVec shifted = x * 1.44269504f + magic;
  const FloatVec n = shifted - magic;
  const FloatVec r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  FloatVec p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntVec power = (__builtin_convertvector(n, IntVec) + 127) << 23;
  const FloatVec result = p * bits_as<FloatVec>(power);
  const IntVec underflow = x < -87.0f;
  return bits_as<FloatVec>(bits_as<IntVec>(result) & ~underflow);
}
inline Vec<double> exp_of(const Vec<double>& x) {
  Vec<double> result;
  for (int i = 0; i < Lanes<double>::kCount; ++i) result[i] = std::exp(x[i]);
  return result;
}

// The largest of x[0 .. count), count >= 1; NaN may be overlooked (the sum of exponentials finds it).
template <typename Scalar>
inline Scalar max_of_row(const Scalar* x, int64_t count) {
  constexpr int kCount = Lanes<Scalar>::kCount;
  Scalar top = x[0];
  int64_t i = 0;
  if (count >= kCount) {
    Vec<Scalar> tops = load(x);
    for (i = kCount; i + kCount <= count; i += kCount) {
      const Vec<Scalar> next = load(x + i);
      tops = next > tops ? next : tops;
    }
    for (int j = 0; j < kCount; ++j) top = std::max(top, tops[j]);
  }
  for (; i < count; ++i) top = std::max(top, x[i]);
  return top;
}

// x[i] = e^(x[i] - shift) in place; returns the sum.
template <typename Scalar>
inline Scalar exp_and_sum(Scalar* x, int64_t count, Scalar shift) {
  constexpr int kCount = Lanes<Scalar>::kCount;
  Vec<Scalar> total{};
  int64_t i = 0;
  for (; i + kCount <= count; i += kCount) {
    const Vec<Scalar> e = exp_of(load(x + i) - shift);
    store(x + i, e);
    total += e;
  }
  Scalar sum = sum_lanes(total);
  if (i < count) {
    const int rest = int(count - i);
    store_first(x + i, exp_of(load_first(x + i, rest) - shift), rest);
    for (; i < count; ++i) sum += x[i];
  }
  return sum;
}
