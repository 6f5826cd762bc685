// What an unfinished output folder holds, so that the next run goes on from its last complete shards.
#pragma once
#include "data/manifest.h"
#include "data/shard_writer.h"

#include <optional>
#include <string>

namespace sffn {

constexpr char kJournalName[] = "prepare.journal";

struct PrepareJournal {
  Manifest plan;  // what the manifest will say, without counts and shards
  SideProgress train, validation;
};

void write_journal(const std::string& folder, const PrepareJournal& journal);
// Nothing where there is none. Throws DamagedError.
std::optional<PrepareJournal> find_journal(const std::string& folder);

}  // namespace sffn
