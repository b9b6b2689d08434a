// Boxes of tokens: the window of a query or the inverse window of a key, and the offsets of their tokens.
#pragma once

#include <array>
#include <vector>

#include "common/neighborhood_params.h"

namespace visionattn {

using Position = std::array<int32_t, kMaxRank>;

// The tokens {group + g * dilation : begin <= g < end} on every axis; `group` is that of `center`, the token whose
// window or inverse window this is.
struct Box {
  std::array<Interval, kMaxRank> interval;
  Position group;   // dilation group per axis
  Position center;  // in group coordinates

  int64_t size() const {
    int64_t result = 1;
    for (const Interval& i : interval) result *= max_of(i.size(), 0);
    return result;
  }
};

template <bool kInverse>
inline Box box_of(const Axis (&axes)[kMaxRank], const Position& position) {
  Box box;
  for (int i = 0; i < kMaxRank; ++i) {
    const Axis& axis = axes[i];
    if (axis.dilation == 1) {  // the common case, without divisions
      box.group[i] = 0;
      box.center[i] = position[i];
    } else {
      box.group[i] = position[i] % axis.dilation;
      box.center[i] = position[i] / axis.dilation;
    }
    const int32_t length = group_length(axis, box.group[i]);
    box.interval[i] = kInverse ? inverse_window(axis, length, box.center[i]) : window(axis, length, box.center[i]);
  }
  return box;
}

// One number per token of the map, linear in its position.
struct Linear {
  int64_t step[kMaxRank];

  int64_t at(const Position& position) const {
    return position[0] * step[0] + position[1] * step[1] + position[2] * step[2];
  }
};

inline Linear spatial_steps(const View& view) { return {view.spatial[0], view.spatial[1], view.spatial[2]}; }

// Steps of a contiguous map [spatial..., channels].
inline Linear contiguous_steps(const Axis (&axes)[kMaxRank], int64_t channels) {
  const int64_t row = axes[2].length * channels;
  return {axes[1].length * row, row, channels};
}

// Where the tokens of a box lie in a tensor: `first`, and relative to it the offsets of all. The offsets depend on the
// box's shape only, which rarely changes from token to token, and are kept.
class BoxOffsets {
 public:
  // `step`: elements per position; with `dilated` positions are tokens of the map, else group coordinates.
  BoxOffsets(const Axis (&axes)[kMaxRank], const Linear& step, bool dilated = true) : step_(step) {
    for (int i = 0; i < kMaxRank; ++i) {
      dilation_[i] = dilated ? axes[i].dilation : 1;
      extent_[i] = -1;
    }
    dilated_ = dilated;
  }

  // Offset of the box's first token; updates `data()`.
  int64_t place(const Box& box) {
    Position first, extent;
    for (int i = 0; i < kMaxRank; ++i) {
      first[i] = box.interval[i].begin * dilation_[i] + (dilated_ ? box.group[i] : 0);
      extent[i] = max_of(box.interval[i].size(), 0);
    }
    if (extent != extent_) fill(extent);
    return step_.at(first);
  }

  const int64_t* data() const { return offsets_.data(); }
  // Changes whenever the offsets do.
  int64_t version() const { return version_; }

 private:
  void fill(const Position& extent) {
    extent_ = extent;
    ++version_;
    offsets_.clear();
    for (int64_t a = 0; a < extent[0]; ++a) {
      for (int64_t b = 0; b < extent[1]; ++b) {
        for (int64_t c = 0; c < extent[2]; ++c) {
          offsets_.push_back(a * dilation_[0] * step_.step[0] + b * dilation_[1] * step_.step[1] +
                             c * dilation_[2] * step_.step[2]);
        }
      }
    }
  }

  Linear step_;
  Position dilation_, extent_;
  bool dilated_;
  int64_t version_ = 0;
  std::vector<int64_t> offsets_;
};

// Entries of the relative bias table [2 * kernel - 1, ...]: key minus query plus kernel - 1, per axis.
inline Linear bias_steps(const Axis (&axes)[kMaxRank]) {
  const int64_t last = 2 * axes[2].kernel - 1;
  return {(2 * axes[1].kernel - 1) * last, last, 1};
}

// Entries of a window's weights [kernel, ...], row-major.
inline Linear slot_steps(const Axis (&axes)[kMaxRank]) {
  return {int64_t(axes[1].kernel) * axes[2].kernel, axes[2].kernel, 1};
}

inline Linear negated(const Linear& linear) { return {-linear.step[0], -linear.step[1], -linear.step[2]}; }

inline Position kernel_minus_one(const Axis (&axes)[kMaxRank]) {
  return {axes[0].kernel - 1, axes[1].kernel - 1, axes[2].kernel - 1};
}

// Calls `body(position, index)` for the tokens begin <= index < end of the map, in row-major order.
template <typename Body>
inline void for_tokens(const Axis (&axes)[kMaxRank], int64_t begin, int64_t end, const Body& body) {
  const int64_t width = axes[2].length, plane = axes[1].length * width;
  Position position{int32_t(begin / plane), int32_t(begin % plane / width), int32_t(begin % width)};
  for (int64_t i = begin; i < end; ++i) {
    body(position, i);
    if (++position[2] < axes[2].length) continue;
    position[2] = 0;
    if (++position[1] < axes[1].length) continue;
    position[1] = 0;
    ++position[0];
  }
}

}  // namespace visionattn
