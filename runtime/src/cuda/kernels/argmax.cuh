// Choosing on the device, greedily.

const int ARGMAX = 256;

/// A logit and its id as one number: larger logits are larger, of equal ones the least id is; NaN is above all. Zero is below all.
INLINE u64 key_of(float logit, u32 id) {
    u32 bits = logit == logit ? __float_as_uint(logit + 0.0f) : 0x7fffffffu; // -0 becomes 0
    u32 ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    return static_cast<u64>(ordered) << 32 | ~id;
}
INLINE u32 id_of(u64 key) { return ~static_cast<u32>(key); }
INLINE float logit_of(u64 key) {
    u32 ordered = static_cast<u32>(key >> 32);
    return __uint_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}

INLINE u64 warp_max(u64 key) {
#pragma unroll
    for (int bit = WARP / 2; bit > 0; bit /= 2) key = max(key, __shfl_xor_sync(ALL_LANES, key, bit));
    return key;
}

/// Whether this block is the last of the grid to come here; what others wrote before is then there. The counter is zero
/// before the first launch, and left so. `flag` is shared.
INLINE bool last_block(u32* counter, u32* flag) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        bool last = atomicAdd(counter, 1u) == gridDim.x - 1;
        if (last) *counter = 0;
        __threadfence();
        *flag = last;
    }
    __syncthreads();
    return *flag;
}

/// The largest key of the block's threads, in its first warp's.
INLINE u64 block_max(u64 key, u64* space) {
    key = warp_max(key);
    if (threadIdx.x % WARP == 0) space[threadIdx.x / WARP] = key;
    __syncthreads();
    return warp_max(threadIdx.x < ARGMAX / WARP ? space[threadIdx.x] : 0);
}

/// id[0] = the least id of the largest logit, id[1] = that logit's bits. Where there is a step, it becomes the next one, of this
/// token alone: ids[0] = id[0].
/// Grid 64, block 256, shared 80 bytes. scratch: 16 + 64 * 8 bytes, the first 4 of them zero before the first launch.
KERNEL(256, 1, argmax, const float* logits, int n, u8* scratch, u32* id, Step* step, u32* ids) {
    wait_for_previous();
    u64* space = reinterpret_cast<u64*>(shared_bytes()); // [8]
    u32* flag = reinterpret_cast<u32*>(space + ARGMAX / WARP);
    u64* best = reinterpret_cast<u64*>(scratch + 16); // [64]
    u64 key = 0;
    for (int i = blockIdx.x * ARGMAX + threadIdx.x; i < n; i += gridDim.x * ARGMAX) key = max(key, key_of(logits[i], i));
    key = block_max(key, space);
    if (threadIdx.x == 0) best[blockIdx.x] = key;
    if (!last_block(reinterpret_cast<u32*>(scratch), flag)) return;
    key = block_max(threadIdx.x < gridDim.x ? load_fresh(best + threadIdx.x) : 0, space);
    if (threadIdx.x > 0) return;
    id[0] = id_of(key), id[1] = __float_as_uint(logit_of(key));
    if (step) step->first += step->tokens, step->tokens = 1, ids[0] = id_of(key);
}
