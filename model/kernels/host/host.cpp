// The kernels as functions of the host, launched by name as the driver does.
#include "shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <utility>
#include <vector>

thread_local uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace {

const size_t STACK = 64 * 1024;
const uint32_t WARP = 32;

[[noreturn]] void fail(const char *text) {
    fprintf(stderr, "kernel on the host: %s (block %u, thread %u)\n", text, blockIdx.x, threadIdx.x);
    abort();
}

// Who waits at a barrier. `turn` changes when all have come.
struct Barrier {
    uint32_t waiting = 0, turn = 0;
};

struct Fibre {
    ucontext_t context;
    bool done = false;
};

struct Block {
    std::vector<Fibre> fibres;
    std::vector<char> stacks;
    std::vector<Barrier> warps;
    std::vector<uint32_t> values;
    Barrier all;
    uint32_t running = 0, current = 0;
    // Whether something happened since the scheduler last began with the first fibre.
    bool progress = false;
    ucontext_t scheduler;
    void (*body)(void *) = nullptr;
    void *argument = nullptr;
};

thread_local Block *block;

void set_thread(uint32_t thread) {
    block->current = thread;
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
}

void yield() {
    const uint32_t me = block->current;
    swapcontext(&block->fibres[me].context, &block->scheduler);
}

void wait(Barrier &barrier, uint32_t count) {
    const uint32_t turn = barrier.turn;
    block->progress = true;
    if (++barrier.waiting >= count) {
        barrier.waiting = 0;
        barrier.turn++;
        return;
    }
    while (barrier.turn == turn) {
        yield();
    }
}

void enter() {
    block->body(block->argument);
    Fibre &fibre = block->fibres[block->current];
    fibre.done = true;
    block->running--;
    block->progress = true;
    if (block->all.waiting > 0) {
        fail("a thread returned while others wait for it at a barrier");
    }
    yield();
}

void run_block(void (*body)(void *), void *argument) {
    const uint32_t threads = blockDim.x * blockDim.y * blockDim.z;
    block->body = body;
    block->argument = argument;
    block->all = Barrier();
    block->warps.assign((threads + WARP - 1) / WARP, Barrier());
    block->values.assign(threads, 0);
    block->fibres.assign(threads, Fibre());
    block->stacks.resize(threads * STACK);
    block->running = threads;
    for (uint32_t i = 0; i < threads; i++) {
        ucontext_t &context = block->fibres[i].context;
        getcontext(&context);
        context.uc_stack.ss_sp = block->stacks.data() + i * STACK;
        context.uc_stack.ss_size = STACK;
        context.uc_link = nullptr;
        makecontext(&context, enter, 0);
    }
    while (block->running > 0) {
        block->progress = false;
        for (uint32_t i = 0; i < threads; i++) {
            if (!block->fibres[i].done) {
                set_thread(i);
                swapcontext(&block->scheduler, &block->fibres[i].context);
            }
        }
        if (!block->progress) {
            fail("every thread waits: they reached different barriers");
        }
    }
}

} // namespace

void __syncthreads() { wait(block->all, block->running); }

uint32_t host_lane() { return block->current % WARP; }

uint32_t host_shuffle(uint32_t mask, uint32_t bits, uint32_t lane) {
    const uint32_t me = block->current, first = me / WARP * WARP;
    if (mask != 0xffffffffu || block->values.size() < first + WARP) {
        fail("a shuffle needs a whole warp");
    }
    block->values[me] = bits;
    wait(block->warps[me / WARP], WARP);
    const uint32_t got = block->values[first + lane % WARP];
    wait(block->warps[me / WARP], WARP);
    return got;
}

#include "../gelu.cu"
#include "../image.cu"
#include "../layer_norm.cu"
#include "../reduce.cu"
#include "../tokens.cu"

namespace {

template <typename... A, size_t... I> void call(void (*kernel)(A...), void **args, std::index_sequence<I...>) {
    kernel(*static_cast<A *>(args[I])...);
}

template <auto KERNEL> struct Call;
template <typename... A, void (*KERNEL)(A...)> struct Call<KERNEL> {
    static void run(void *args) { call(KERNEL, static_cast<void **>(args), std::index_sequence_for<A...>()); }
    static const size_t COUNT = sizeof...(A);
};

struct Entry {
    const char *name;
    size_t count;
    void (*run)(void *);
};

#define ENTRY(NAME) {#NAME, Call<NAME>::COUNT, Call<NAME>::run}
#define BOTH(NAME) ENTRY(NAME##_f32), ENTRY(NAME##_bf16)
const Entry ENTRIES[] = {
    BOTH(embed_backward),      BOTH(embed_forward),      BOTH(gelu_backward),    BOTH(gelu_forward),
    BOTH(layer_norm_backward), BOTH(layer_norm_forward), BOTH(layer_norm_residual), BOTH(removed_backward),
    BOTH(removed_forward),     BOTH(unshuffle_backward), BOTH(unshuffle_forward), BOTH(masked_loss), BOTH(patchify), ENTRY(column_sums),
};

} // namespace

// As the driver's cuLaunchKernel. Returns 0, 1 for a name that there is not, 2 for another number of arguments than the kernel takes.
extern "C" int32_t mae_host_launch(const char *name, const uint32_t grid[3], const uint32_t threads[3], void **args, size_t count) {
    for (const Entry &entry : ENTRIES) {
        if (strcmp(entry.name, name) != 0) {
            continue;
        }
        if (entry.count != count) {
            return 2;
        }
        Block mine;
        block = &mine;
        gridDim = {grid[0], grid[1], grid[2]};
        blockDim = {threads[0], threads[1], threads[2]};
        for (uint32_t z = 0; z < grid[2]; z++) {
            for (uint32_t y = 0; y < grid[1]; y++) {
                for (uint32_t x = 0; x < grid[0]; x++) {
                    blockIdx = {x, y, z};
                    run_block(entry.run, args);
                }
            }
        }
        block = nullptr;
        return 0;
    }
    return 1;
}
