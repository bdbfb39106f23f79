// Positions: RoPE, and the cache of keys and values. Of each layer both are [kv_heads, positions, head_dim], f32 or f16;
// position p is at p % positions.

INLINE float widen(float x) { return x; }
INLINE float widen(u16 x) { return half_to_float(x); }
INLINE void narrow(float x, float& to) { to = x; }
INLINE void narrow(float x, u16& to) { to = float_to_half(x); }

/// Turns every head of every row, row r at position step->first + offset + r: pair (j, j + R / 2) of the head's first R
/// elements by the angle whose cosine and sine are in the tables [positions, R / 2].
/// Grid up to ceil(rows * heads * R / 2 / 256), block 256, no shared memory.
KERNEL(256, 4, rope, float* x, const float* cosines, const float* sines, const Step* step, int offset, int rows, int heads,
       int head_dim, int rotary_dim) {
    wait_for_previous();
    int pairs = rotary_dim / 2;
    long long first = static_cast<long long>(step->first) + offset;
    for_each_value(static_cast<long long>(rows) * heads * pairs, [=](long long i) {
        int j = static_cast<int>(i % pairs);
        long long head = i / pairs, angle = (first + head / heads) * pairs + j;
        float *low = x + head * head_dim + j, *high = low + pairs;
        float a = *low, b = *high, c = cosines[angle], s = sines[angle];
        *low = a * c - b * s;
        *high = b * c + a * s;
    });
}

/// Puts k and v [rows, kv_heads * head_dim] into the cache; rows are at most `positions`.
template <class T>
INLINE void kv_store(const float* k, const float* v, T* cache_k, T* cache_v, const Step* step, int offset, int rows,
                     int kv_heads, int head_dim, int positions) {
    wait_for_previous();
    int width = kv_heads * head_dim;
    long long first = static_cast<long long>(step->first) + offset;
    for_each_value(static_cast<long long>(rows) * width, [=](long long i) {
        int head = static_cast<int>(i % width) / head_dim, d = static_cast<int>(i % head_dim);
        long long at = (first + i / width) % positions;
        long long to = (static_cast<long long>(head) * positions + at) * head_dim + d;
        narrow(k[i], cache_k[to]);
        narrow(v[i], cache_v[to]);
    });
}

/// Grid up to ceil(rows * kv_heads * head_dim / 256), block 256, no shared memory.
KERNEL(256, 4, kv_store_f32, const float* k, const float* v, float* cache_k, float* cache_v, const Step* step, int offset,
       int rows, int kv_heads, int head_dim, int positions) {
    kv_store(k, v, cache_k, cache_v, step, offset, rows, kv_heads, head_dim, positions);
}

KERNEL(256, 4, kv_store_f16, const float* k, const float* v, u16* cache_k, u16* cache_v, const Step* step, int offset,
       int rows, int kv_heads, int head_dim, int positions) {
    kv_store(k, v, cache_k, cache_v, step, offset, rows, kv_heads, head_dim, positions);
}
