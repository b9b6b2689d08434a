// Arithmetic on rows of channels, read through lists of offsets: all that attention over a window needs.
// Included per instruction set, after simd.h.

// The channels of one token in the type that is computed in, padded with zeros to whole vectors.
template <typename Scalar>
class Row {
 public:
  explicit Row(int channels)
      : channels_(channels),
        vectors_((channels + Lanes<Scalar>::kCount - 1) / Lanes<Scalar>::kCount),
        data_(new Vec<Scalar>[vectors_]) {}

  int channels() const { return channels_; }
  int vectors() const { return vectors_; }
  // Channels in the last vector if that is not full, else 0.
  int tail() const { return channels_ % Lanes<Scalar>::kCount; }
  Vec<Scalar>& operator[](int i) { return data_[i]; }
  const Vec<Scalar>& operator[](int i) const { return data_[i]; }

  template <typename T>
  void read(const T* source, Scalar factor = 1) {
    const int full = vectors_ - (tail() != 0);
    for (int i = 0; i < full; ++i) data_[i] = load(source + i * Lanes<Scalar>::kCount) * factor;
    if (tail()) data_[full] = load_first(source + full * Lanes<Scalar>::kCount, tail()) * factor;
  }

  template <typename T>
  void write(T* target, Scalar factor = 1) const {
    const int full = vectors_ - (tail() != 0);
    for (int i = 0; i < full; ++i) store(target + i * Lanes<Scalar>::kCount, data_[i] * factor);
    if (tail()) store_first(target + full * Lanes<Scalar>::kCount, data_[full] * factor, tail());
  }

  void clear() {
    for (int i = 0; i < vectors_; ++i) data_[i] = Vec<Scalar>{};
  }

 private:
  int channels_, vectors_;
  std::unique_ptr<Vec<Scalar>[]> data_;
};

// kVectors: number of vectors in a row with no tail, known when compiling; 0: any.
template <int kVectors, typename T, typename Scalar>
inline void dots_of(const Row<Scalar>& row, const T* base, const int64_t* offsets, int64_t count, Scalar* result) {
  constexpr int kLanes = Lanes<Scalar>::kCount;
  constexpr int kHeld = kVectors ? kVectors : 1;
  Vec<Scalar> held[kHeld];
  if constexpr (kVectors > 0) {
    for (int i = 0; i < kVectors; ++i) held[i] = row[i];
  }
  const int full = row.vectors() - (row.tail() != 0);
  const auto products = [&](const T* other) {
    Vec<Scalar> sum{};
    if constexpr (kVectors > 0) {
      sum = held[0] * load(other);
#pragma GCC unroll 8
      for (int i = 1; i < kVectors; ++i) sum += held[i] * load(other + i * kLanes);
    } else {
      for (int i = 0; i < full; ++i) sum += row[i] * load(other + i * kLanes);
      if (row.tail()) sum += row[full] * load_first(other + full * kLanes, row.tail());
    }
    return sum;
  };
  Vec<Scalar> partial[kLanes];
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) partial[j] = products(base + offsets[i + j]);
    store(result + i, sum_each(partial));
  }
  for (; i < count; ++i) result[i] = sum_lanes(products(base + offsets[i]));
}

// sum += sum over i of weights[i] * row at offsets[i]
template <int kVectors, typename T, typename Scalar>
inline void accumulate_of(const Scalar* weights, const T* base, const int64_t* offsets, int64_t count,
                          Row<Scalar>& sum) {
  constexpr int kLanes = Lanes<Scalar>::kCount;
  if constexpr (kVectors > 0) {
    // Two independent chains hide the latency of the additions, as long as they fit the registers.
    constexpr int kStep = kVectors <= 4 ? 2 : 1;
    Vec<Scalar> chains[kStep][kVectors] = {};
    for (int v = 0; v < kVectors; ++v) chains[0][v] = sum[v];
    int64_t i = 0;
    for (; i + kStep <= count; i += kStep) {
#pragma GCC unroll 2
      for (int j = 0; j < kStep; ++j) {
        const T* other = base + offsets[i + j];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) chains[j][v] += weights[i + j] * load(other + v * kLanes);
      }
    }
    for (; i < count; ++i) {
      for (int v = 0; v < kVectors; ++v) chains[0][v] += weights[i] * load(base + offsets[i] + v * kLanes);
    }
    for (int v = 0; v < kVectors; ++v) sum[v] = kStep == 2 ? chains[0][v] + chains[kStep - 1][v] : chains[0][v];
  } else {
    const int full = sum.vectors() - (sum.tail() != 0);
    for (int64_t i = 0; i < count; ++i) {
      const T* other = base + offsets[i];
      for (int v = 0; v < full; ++v) sum[v] += weights[i] * load(other + v * kLanes);
      if (sum.tail()) sum[full] += weights[i] * load_first(other + full * kLanes, sum.tail());
    }
  }
}

template <typename T, typename Scalar>
inline void dots(const Row<Scalar>& row, const T* base, const int64_t* offsets, int64_t count, Scalar* result) {
  switch (row.tail() ? 0 : row.vectors()) {
    case 1:
      return dots_of<1>(row, base, offsets, count, result);
    case 2:
      return dots_of<2>(row, base, offsets, count, result);
    case 4:
      return dots_of<4>(row, base, offsets, count, result);
    case 8:
      return dots_of<8>(row, base, offsets, count, result);
    default:
      return dots_of<0>(row, base, offsets, count, result);
  }
}

template <typename T, typename Scalar>
inline void accumulate(const Scalar* weights, const T* base, const int64_t* offsets, int64_t count, Row<Scalar>& sum) {
  switch (sum.tail() ? 0 : sum.vectors()) {
    case 1:
      return accumulate_of<1>(weights, base, offsets, count, sum);
    case 2:
      return accumulate_of<2>(weights, base, offsets, count, sum);
    case 4:
      return accumulate_of<4>(weights, base, offsets, count, sum);
    case 8:
      return accumulate_of<8>(weights, base, offsets, count, sum);
    default:
      return accumulate_of<0>(weights, base, offsets, count, sum);
  }
}

template <typename Scalar>
inline Scalar dot(const Row<Scalar>& a, const Row<Scalar>& b) {
  Vec<Scalar> sum{};
  for (int i = 0; i < a.vectors(); ++i) sum += a[i] * b[i];
  return sum_lanes(sum);
}
