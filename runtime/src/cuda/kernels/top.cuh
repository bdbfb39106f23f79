// The k largest logits with their ids, for samplers that look at no more.
//
// Each block finds the k largest of its share, the last block to finish those of all blocks. Both take what they look through
// in batches, keep what is above the k-th largest so far, and sort 1024 keys in shared memory when a batch brought some: the
// first batch, and then few. In which order keys were kept does not show, as no two are equal.

const int TOP = 256, TOP_MOST = 256, TOP_SORTED = 1024, TOP_BATCH = TOP_SORTED - TOP_MOST;

/// Sorts 1024 keys, largest first. A barrier must lie before it; behind it there is one.
INLINE void sort_keys(u64* keys) {
    for (int size = 2; size <= TOP_SORTED; size *= 2) {
        for (int apart = size / 2; apart > 0; apart /= 2) {
            for (int i = threadIdx.x; i < TOP_SORTED / 2; i += TOP) {
                int low = 2 * i - i % apart, high = low + apart;
                bool falling = (low & size) == 0;
                u64 a = keys[low], b = keys[high];
                if ((a < b) == falling) keys[low] = b, keys[high] = a;
            }
            __syncthreads();
        }
    }
}

/// Takes n keys, key(i) each, none twice, and leaves the largest k of them and what was among keys[0..k) there, largest
/// first, zeros where there are fewer. Stops behind a batch of which none was kept, where `falling`: later keys are smaller.
template <class Key> INLINE void keep_largest(u64* keys, u32* count, int k, int n, bool falling, Key key) {
    if (threadIdx.x == 0) *count = 0;
    for (int first = 0; first < n; first += TOP_BATCH) {
        for (int i = TOP_MOST + threadIdx.x; i < TOP_SORTED; i += TOP) keys[i] = 0;
        __syncthreads();
        u64 least = keys[k - 1];
        for (int i = first + threadIdx.x; i < min(n, first + TOP_BATCH); i += TOP) {
            u64 candidate = key(i);
            if (candidate > least) keys[TOP_MOST + atomicAdd(count, 1u)] = candidate;
        }
        __syncthreads();
        if (*count > 0) {
            sort_keys(keys);
            if (threadIdx.x == 0) *count = 0; // all have read it before they sorted
        } else if (falling) {
            break;
        }
    }
}

/// The k <= 256 largest logits, largest first, equal ones by id: ids and values [k]; k <= n.
/// Grid 128, block 256, shared 8208 bytes. scratch: 16 + 128 * k * 8 bytes, the first 4 of them zero before the first launch.
KERNEL(256, 1, top_candidates, const float* logits, int n, int k, u8* scratch, u32* ids, float* values) {
    wait_for_previous();
    u64* keys = reinterpret_cast<u64*>(shared_bytes()); // [1024]
    u32* count = reinterpret_cast<u32*>(keys + TOP_SORTED), *flag = count + 1;
    u64* lists = reinterpret_cast<u64*>(scratch + 16); // [rank k][block]
    for (int i = threadIdx.x; i < TOP_SORTED; i += TOP) keys[i] = 0;
    int share = ceil_div(n, gridDim.x), first = blockIdx.x * share, own = max(0, min(share, n - first));
    keep_largest(keys, count, k, own, false, [=](int i) { return key_of(logits[first + i], first + i); });
    for (int i = threadIdx.x; i < k; i += TOP) lists[i * gridDim.x + blockIdx.x] = keys[i];
    if (!last_block(reinterpret_cast<u32*>(scratch), flag)) return;
    for (int i = threadIdx.x; i < TOP_SORTED; i += TOP) keys[i] = 0;
    // Rank by rank, so that a batch without a key to keep is the last.
    keep_largest(keys, count, k, k * gridDim.x, true, [=](int i) { return load_fresh(lists + i); });
    for (int i = threadIdx.x; i < k; i += TOP) ids[i] = id_of(keys[i]), values[i] = logit_of(keys[i]);
}
