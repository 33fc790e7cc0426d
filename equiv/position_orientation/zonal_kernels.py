r"""C++ for the derivatives of the form in :mod:`equiv.position_orientation.zonal_form`.

The numbers of orientations ``N``, degrees ``D`` and channels ``C`` are constants of the source; a
vector register holds neighbouring channels. A receiver's sums stay in the first cache while its
neighbours pass by.
"""

SOURCE = """
struct Graph {
  I blocks, width, pairs;
  const I *first, *second, *pair;
  const int8_t* sign;
  const I *senders, *slots;
};

static void by_rows(const Graph& n, int turned, const T* given, const T* Z, const T* R, T* out,
                    I threads) {
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic, 4)
  for (I b = 0; b < n.blocks; ++b) {
    T* y = out + b * N * C;
    std::memset(y, 0, sizeof(T) * N * C);
    for (I k = b * n.width; k < (b + 1) * n.width; ++k) {
      if (!n.sign[k]) continue;
      const T odd = turned ? -n.sign[k] : n.sign[k];
      const T* z0 = Z + n.pair[k] * N * D;
      T z[N * D];
      for (I o = 0; o < N; ++o)
        for (I l = 0; l < D; ++l) z[o * D + l] = l % 2 ? odd * z0[o * D + l] : z0[o * D + l];
      const T *r = R + n.pair[k] * D * C, *x = given + n.senders[k] * N * C;
      for (I v = 0; v < C; v += U * L) {
        V radial[U][D];
        for (I u = 0; u < U; ++u)
          for (I l = 0; l < D; ++l) radial[u][l] = load(r + l * C + v + u * L);
        for (I o = 0; o < N; ++o)
          #pragma GCC unroll 4
          for (I u = 0; u < U; ++u) {
            V kernel = z[o * D] * radial[u][0];
            #pragma GCC unroll 16
            for (I l = 1; l < D; ++l) kernel += z[o * D + l] * radial[u][l];
            const I at = o * C + v + u * L;
            store(y + at, load(y + at) + kernel * load(x + at));
          }
      }
    }
  }
}

static void by_radial(const Graph& n, const T* g, const T* x, const T* Z, T* out, I threads) {
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (I p = 0; p < n.pairs; ++p) {
    T* r = out + p * D * C;
    if (!n.sign[n.slots[2 * p]]) { std::memset(r, 0, sizeof(T) * D * C); continue; }
    const T *gi = g + n.first[p] * N * C, *gj = g + n.second[p] * N * C;
    const T *xi = x + n.first[p] * N * C, *xj = x + n.second[p] * N * C;
    const T* z = Z + p * N * D;
    for (I v = 0; v < C; v += L) {
      V s[D];
      #pragma GCC unroll 16
      for (I l = 0; l < D; ++l) s[l] = zero();
      for (I o = 0; o < N; ++o) {
        const I at = o * C + v;
        const V there = load(gi + at) * load(xj + at), back = load(gj + at) * load(xi + at);
        const V even = there + back, odd = there - back;
        #pragma GCC unroll 16
        for (I l = 0; l < D; ++l) s[l] += z[o * D + l] * (l % 2 ? odd : even);
      }
      #pragma GCC unroll 16
      for (I l = 0; l < D; ++l) store(r + l * C + v, s[l]);
    }
  }
}

static void by_zonal(const Graph& n, const T* g, const T* x, const T* R, T* out, I threads) {
  #pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (I p = 0; p < n.pairs; ++p) {
    T* z = out + p * N * D;
    if (!n.sign[n.slots[2 * p]]) { std::memset(z, 0, sizeof(T) * N * D); continue; }
    const T *gi = g + n.first[p] * N * C, *gj = g + n.second[p] * N * C;
    const T *xi = x + n.first[p] * N * C, *xj = x + n.second[p] * N * C;
    const T* r = R + p * D * C;
    for (I o = 0; o < N; ++o) {
      V s[D];
      #pragma GCC unroll 16
      for (I l = 0; l < D; ++l) s[l] = zero();
      for (I v = 0; v < C; v += L) {
        const I at = o * C + v;
        const V there = load(gi + at) * load(xj + at), back = load(gj + at) * load(xi + at);
        const V even = there + back, odd = there - back;
        #pragma GCC unroll 16
        for (I l = 0; l < D; ++l) s[l] += load(r + l * C + v) * (l % 2 ? odd : even);
      }
      #pragma GCC unroll 16
      for (I l = 0; l < D; ++l) z[o * D + l] = sum(s[l]);
    }
  }
}

static void derivative(I wanted, const Graph& n, const T* a, const T* b, const T* c, T* out,
                       I threads) {
  if (wanted == 0) by_rows(n, 0, a, b, c, out, threads);
  if (wanted == 1) by_rows(n, 1, a, b, c, out, threads);
  if (wanted == 2) by_zonal(n, a, b, c, out, threads);
  if (wanted == 3) by_radial(n, a, b, c, out, threads);
}

extern "C" void run(I wanted, I blocks, I width, I pairs, const I* first, const I* second,
                    const I* pair, const int8_t* sign, const I* senders, const I* slots,
                    const T* a, const T* b, const T* c, T* out, I threads) {
  const Graph n = {blocks, width, pairs, first, second, pair, sign, senders, slots};
  derivative(wanted, n, a, b, c, out, threads);
}
"""
