// Whether a run may go on from a checkpoint, and whether it has what was saved.
#pragma once
#include "comm/communicator.h"
#include "config/config.h"
#include "core/hash.h"
#include "train/checkpoint/checkpoint.h"
#include "train/engine.h"

namespace sffn {

// What may not change between a save and its resume (config/resume.h), and the data, by its fingerprint. Rank 0 tells
// what may change and has. Throws UsageError; DamagedError where the same path holds other data.
void check_resume(const Communicator& ranks, const Config&, const Hash128& data, const FoundCheckpoint&);
// What the checkpoint's writers held is what these ranks hold now, block by block. Collective. Throws DamagedError.
void check_fingerprints(const Communicator& ranks, Engine&, const FoundCheckpoint&);

}  // namespace sffn
