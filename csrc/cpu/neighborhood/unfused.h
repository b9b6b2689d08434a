// The unfused kernels: logits of each window, weighted sums of it. Included per instruction set, after attention.h.

// Calls `body(state, batch, head, position)` for every token, in parallel; each task has a `state` of its own.
template <typename MakeState, typename Body>
inline void for_all_tokens(const UnfusedParams& p, const MakeState& make_state, const Body& body) {
  const int64_t tokens = p.tokens(), blocks = (tokens + kTokensPerTask - 1) / kTokensPerTask;
  torch::stable::parallel_for(0, p.batch * p.heads * blocks, 1, [&](int64_t begin, int64_t end) {
    auto state = make_state();
    for (int64_t task = begin; task < end; ++task) {
      const int64_t block = task % blocks, head = task / blocks % p.heads, batch = task / blocks / p.heads;
      const int64_t first = block * kTokensPerTask;
      for_tokens(p.axes, first, std::min(first + kTokensPerTask, tokens),
                 [&](const Position& position, int64_t) { body(state, batch, head, position); });
    }
  });
}

template <typename T>
inline typename Compute<T>::Type widen(T x) {
  return load_first(&x, 1)[0];
}

template <typename T>
inline T narrow(typename Compute<T>::Type x) {
  T result;
  store_first(&result, broadcast(x), 1);
  return result;
}

template <typename T, typename Scalar>
struct UnfusedState {
  UnfusedState(const UnfusedParams& p, const View& gathered)
      : tokens(p.axes, spatial_steps(gathered)),
        slots(p.axes, slot_steps(p.axes), false),
        biases(p.axes, bias_steps(p.axes), false),
        row(p.dim),
        weights(p.window_size()) {}
  BoxOffsets tokens, slots, biases;
  Row<Scalar> row;
  std::vector<Scalar> weights;
  std::vector<int64_t> offsets;
};

template <typename T>
void unfused_qk(const UnfusedParams& p) {
  using Scalar = typename Compute<T>::Type;
  const Linear query_step = spatial_steps(p.query), attention_step = spatial_steps(p.attention);
  const T masked = narrow<T>(-std::numeric_limits<Scalar>::infinity());
  const auto make_state = [&] { return UnfusedState<T, Scalar>(p, p.key); };
  for_all_tokens(p, make_state, [&](auto& state, int64_t batch, int64_t head, const Position& position) {
    const Box box = box_of<false>(p.axes, position);
    const int64_t window = box.size();
    state.slots.place(box);
    state.row.read(at<const T>(p.query, batch, head) + query_step.at(position));
    const int64_t first = state.tokens.place(box);
    dots(state.row, at<const T>(p.key, batch, head) + first, state.tokens.data(), window, state.weights.data());
    if (p.rpb) {
      Position shift = kernel_minus_one(p.axes);
      for (int i = 0; i < kMaxRank; ++i) shift[i] -= box.center[i];
      const Scalar* bias = static_cast<const Scalar*>(p.rpb) + head * p.rpb_size() + bias_steps(p.axes).at(shift) +
                           state.biases.place(box);
      for (int64_t i = 0; i < window; ++i) state.weights[i] += bias[state.biases.data()[i]];
    }
    T* target = at<T>(p.attention, batch, head) + attention_step.at(position);
    if (window < p.window_size()) std::fill(target, target + p.window_size(), masked);
    for (int64_t i = 0; i < window; ++i) target[state.slots.data()[i]] = narrow<T>(state.weights[i]);
  });
}

template <typename T>
void unfused_av(const UnfusedParams& p) {
  using Scalar = typename Compute<T>::Type;
  const Linear attention_step = spatial_steps(p.attention), output_step = spatial_steps(p.output);
  const auto make_state = [&] { return UnfusedState<T, Scalar>(p, p.key); };
  for_all_tokens(p, make_state, [&](auto& state, int64_t batch, int64_t head, const Position& position) {
    const Box box = box_of<false>(p.axes, position);
    const T* attention = at<const T>(p.attention, batch, head) + attention_step.at(position);
    state.slots.place(box);
    for (int64_t i = 0; i < box.size(); ++i) state.weights[i] = widen(attention[state.slots.data()[i]]);
    state.row.clear();
    const int64_t first = state.tokens.place(box);
    accumulate(state.weights.data(), at<const T>(p.key, batch, head) + first, state.tokens.data(), box.size(),
               state.row);
    state.row.write(at<T>(p.output, batch, head) + output_step.at(position));
  });
}

// Sums over the queries of each key's inverse window; the slot that a query keeps for the key depends on its window.
template <typename T>
void unfused_av_transposed(const UnfusedParams& p) {
  using Scalar = typename Compute<T>::Type;
  const Linear attention_step = spatial_steps(p.attention), output_step = spatial_steps(p.output),
               slot_step = slot_steps(p.axes);
  const auto make_state = [&] { return UnfusedState<T, Scalar>(p, p.query); };
  for_all_tokens(p, make_state, [&](auto& state, int64_t batch, int64_t head, const Position& position) {
    const Box box = box_of<true>(p.axes, position);
    const auto slot_of = [&](int i, int32_t q) {
      const int32_t begin = window(p.axes[i], group_length(p.axes[i], box.group[i]), q).begin;
      const int64_t token = int64_t(q) * p.axes[i].dilation + box.group[i];
      return (box.center[i] - begin) * slot_step.step[i] + token * attention_step.step[i];
    };
    const T* attention = at<const T>(p.attention, batch, head);
    state.weights.clear();
    for (int32_t a = box.interval[0].begin; a < box.interval[0].end; ++a) {
      for (int32_t b = box.interval[1].begin; b < box.interval[1].end; ++b) {
        const int64_t row = slot_of(0, a) + slot_of(1, b);
        for (int32_t c = box.interval[2].begin; c < box.interval[2].end; ++c) {
          state.weights.push_back(widen(attention[row + slot_of(2, c)]));
        }
      }
    }
    state.row.clear();
    const int64_t first = state.tokens.place(box);
    accumulate(state.weights.data(), at<const T>(p.query, batch, head) + first, state.tokens.data(), box.size(),
               state.row);
    state.row.write(at<T>(p.output, batch, head) + output_step.at(position));
  });
}

template <typename T>
void unfused_rpb_gradient(const UnfusedParams& p) {
  using Scalar = typename Compute<T>::Type;
  const Linear attention_step = spatial_steps(p.attention), step = bias_steps(p.axes);
  torch::stable::parallel_for(0, p.heads, 1, [&](int64_t begin, int64_t end) {
    UnfusedState<T, Scalar> state(p, p.attention);
    for (int64_t head = begin; head < end; ++head) {
      Scalar* grad = static_cast<Scalar*>(p.output.data) + head * p.rpb_size();
      std::fill(grad, grad + p.rpb_size(), Scalar(0));
      for (int64_t batch = 0; batch < p.batch; ++batch) {
        for_tokens(p.axes, 0, p.tokens(), [&](const Position& position, int64_t) {
          const Box box = box_of<false>(p.axes, position);
          const T* attention = at<const T>(p.attention, batch, head) + attention_step.at(position);
          Position shift = kernel_minus_one(p.axes);
          for (int i = 0; i < kMaxRank; ++i) shift[i] -= box.center[i];
          Scalar* target = grad + step.at(shift) + state.biases.place(box);
          state.slots.place(box);
          for (int64_t i = 0; i < box.size(); ++i) {
            target[state.biases.data()[i]] += widen(attention[state.slots.data()[i]]);
          }
        });
      }
    }
  });
}
