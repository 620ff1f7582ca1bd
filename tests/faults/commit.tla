------------------------------- MODULE commit -------------------------------
(* Writers, a compactor that cleans up and somebody who tags versions share one bank, as in
   infra/bank/expert_bank.py, infra/storage/tables.py and infra/bank/compaction.py. Each step is one
   call to the store; between any two, others act, processes die, and time passes.

   All edits are of one subject: of two, a version holds the one with the larger number. At first
   there are `NumFiles` files with rows of other subjects. A file is
   named by the order in which it was written; `files` of a version are in the order of Lance's
   fragment numbers. A commit takes the file of a worker as it is, or a copy of its rows in one file of
   the window, and then deletes the file that no version names. Lance lets two commits on one base both
   succeed unless they touch a file in common; `touched` are the files that a version changed, or named
   as changed. The age of files is looked at when a commit is made: a commit itself takes no week.

   Constants that are FALSE leave out one precaution; commit_model.py says what goes wrong then. *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS Writers, NumEdits, NumFiles, MaxVersions, MaxFiles, MaxEpochs, IsTagged,
    ChecksFence,     \* a commit asks whether a newer writer has come
    BaseFirst,       \* the version that a commit builds on is read before that, not after
    NamesOldest,     \* every commit names the oldest file as changed; FALSE: the newest one
    LooksAgain,      \* a commit of unknown fate is decided anew, on the newest version
    KeepsOrphans,    \* clean-up spares files of no version until they are old
    ChecksAge,       \* a commit refuses files that are nearly as old
    SparesNamed,     \* a writer deletes its file only if neither base nor new version names it
    Announces,       \* who tags a version takes the tag back if a clean-up announced it, or it is gone
    TagsLast         \* clean-up reads the tags after its announcement; FALSE: before it

VARIABLES versions, kept, rows, stored, old, fence, writer, compactor, tagger, tags, announced, given

Edits == 1..NumEdits
Newest == Len(versions)
Range(s) == {s[i] : i \in DOMAIN s}
Rows(v) == {r \in (Range(versions[v].files) \X Edits) :
              r[2] \in rows[r[1]] /\ r \notin versions[v].gone}
Held(v) == {r[2] : r \in Rows(v)}
Idle == [at |-> "idle", epoch |-> 0, edit |-> 0, file |-> 0, copy |-> 0, base |-> 0]

Init ==
    /\ versions = <<[files |-> [i \in 1..NumFiles |-> i], gone |-> {}, touched |-> {}, epoch |-> 0]>>
    /\ rows = [i \in 1..NumFiles |-> {}] /\ stored = 1..NumFiles
    /\ kept = {1} /\ old = {} /\ fence = 0
    /\ writer = [x \in Writers |-> Idle]
    /\ compactor = [at |-> "idle", base |-> 0, merged |-> {}, file |-> 0, doomed |-> {}]
    /\ tagger = [at |-> "idle", version |-> 0] /\ tags = {} /\ announced = {} /\ given = {}

----------------------------------------------------------------------------
(* Writers. *)
Acquire(x) ==
    /\ writer[x].at = "idle" /\ fence < MaxEpochs
    /\ fence' = fence + 1
    /\ writer' = [writer EXCEPT ![x] = [Idle EXCEPT !.at = "write", !.epoch = fence + 1]]
    /\ UNCHANGED <<versions, kept, rows, stored, old, compactor, tagger, tags, announced, given>>

WriteRows(x) ==
    /\ writer[x].at = "write" /\ Len(rows) < MaxFiles
    /\ \E e \in Edits :
        /\ rows' = Append(rows, {e})
        /\ writer' = [writer EXCEPT ![x].at = IF BaseFirst THEN "base" ELSE "check",
                                    ![x].edit = e, ![x].file = Len(rows) + 1,
                                    ![x].copy = Len(rows) + 1]
    /\ stored' = stored \cup {Len(rows) + 1}
    /\ UNCHANGED <<versions, kept, old, fence, compactor, tagger, tags, announced, given>>

ReadBase(x) ==
    /\ writer[x].at = "base"
    /\ writer' = [writer EXCEPT ![x].at = IF BaseFirst THEN "check" ELSE "commit",
                                ![x].base = Newest]
    /\ UNCHANGED <<versions, kept, rows, stored, old, fence, compactor, tagger, tags, announced, given>>

CheckFence(x) ==
    /\ writer[x].at = "check"
    /\ writer' = [writer EXCEPT ![x] =
         IF ChecksFence /\ fence # writer[x].epoch THEN Idle
         ELSE [writer[x] EXCEPT !.at = IF BaseFirst THEN "commit" ELSE "base"]]
    /\ UNCHANGED <<versions, kept, rows, stored, old, fence, compactor, tagger, tags, announced, given>>

Conflicts(base, touched) ==
    \/ base \notin kept  \* Lance cannot see what happened since
    \/ \E v \in (base + 1)..Newest : v \in kept /\ versions[v].touched \cap touched # {}
    \/ \E v \in (base + 1)..Newest : v \notin kept
    \/ Len(versions[base].files) = 0 /\ base # Newest  \* the first rows overwrite an empty table

(* What a commit of a writer would do, as it was decided on its base. *)
Replaced(x) == {r \in Rows(writer[x].base) : r[2] < writer[x].edit}
Touched(x) ==
    LET files == versions[writer[x].base].files
        named == IF files = <<>> THEN {}
                 ELSE {IF NamesOldest THEN files[1] ELSE files[Len(files)]}
    IN named \cup {r[1] : r \in Replaced(x)}
Done(x) ==
    \/ \E e \in Held(writer[x].base) : e >= writer[x].edit
    \/ ChecksAge /\ {writer[x].file, writer[x].copy} \cap old # {}

(* The rows of the window in one file, which no version shows yet. *)
CopyRows(x) ==
    /\ writer[x].at = "commit" /\ writer[x].copy = writer[x].file /\ Len(rows) < MaxFiles
    /\ rows' = Append(rows, {writer[x].edit}) /\ stored' = stored \cup {Len(rows) + 1}
    /\ writer' = [writer EXCEPT ![x].copy = Len(rows) + 1]
    /\ UNCHANGED <<versions, kept, old, fence, compactor, tagger, tags, announced, given>>

Commit(x) ==
    /\ writer[x].at = "commit"
    /\ IF Done(x) THEN
           /\ writer' = [writer EXCEPT ![x] = Idle]
           /\ UNCHANGED <<versions, kept>>
       ELSE IF Conflicts(writer[x].base, Touched(x)) THEN
           /\ writer' = [writer EXCEPT ![x].at = IF BaseFirst THEN "base" ELSE "check",
                                       ![x].copy = writer[x].file]
           /\ UNCHANGED <<versions, kept>>
       ELSE
           /\ Newest < MaxVersions
           /\ versions' = Append(versions,
                [files |-> Append(versions[Newest].files, writer[x].copy),
                 gone |-> versions[Newest].gone \cup Replaced(x),
                 touched |-> Touched(x), epoch |-> writer[x].epoch])
           /\ kept' = kept \cup {Newest + 1}
           /\ \/ writer' = [writer EXCEPT ![x].at = "tidy", ![x].base = Newest + 1]
              \/ LooksAgain /\ writer' = [writer EXCEPT ![x].at = IF BaseFirst THEN "base" ELSE "check",
                                                     ![x].copy = writer[x].file]
              \/ ~LooksAgain /\ writer' = [writer EXCEPT ![x].base = Newest + 1, ![x].at = "blind"]
    /\ UNCHANGED <<rows, stored, old, fence, compactor, tagger, tags, announced, given>>

(* Without looking again: the same rows once more, on top of whatever there is. *)
Repeat(x) ==
    /\ writer[x].at = "blind" /\ Newest < MaxVersions
    /\ versions' = Append(versions,
         [files |-> Append(versions[Newest].files, writer[x].copy),
          gone |-> versions[Newest].gone, touched |-> {}, epoch |-> writer[x].epoch])
    /\ kept' = kept \cup {Newest + 1}
    /\ writer' = [writer EXCEPT ![x] = Idle]
    /\ UNCHANGED <<rows, stored, old, fence, compactor, tagger, tags, announced, given>>

(* The file of the worker is deleted if its rows were committed as a copy. *)
Tidy(x) ==
    /\ writer[x].at = "tidy"
    /\ stored' = IF SparesNamed /\ writer[x].file \in Range(versions[writer[x].base].files) THEN stored
                 ELSE stored \ {writer[x].file}
    /\ writer' = [writer EXCEPT ![x] = Idle]
    /\ UNCHANGED <<versions, kept, rows, old, fence, compactor, tagger, tags, announced, given>>

Die(x) ==
    /\ writer[x].at # "idle"
    /\ writer' = [writer EXCEPT ![x] = Idle]
    /\ UNCHANGED <<versions, kept, rows, stored, old, fence, compactor, tagger, tags, announced, given>>

----------------------------------------------------------------------------
(* The compactor: merges two or more files, without rows that have gone; then cleans up. *)
Merge ==
    /\ compactor.at = "idle" /\ Len(rows) < MaxFiles
    /\ \E s \in SUBSET Range(versions[Newest].files) :
        /\ Cardinality(s) >= 2
        /\ rows' = Append(rows, {r[2] : r \in {q \in Rows(Newest) : q[1] \in s}})
        /\ compactor' = [compactor EXCEPT !.at = "swap", !.base = Newest, !.merged = s,
                                          !.file = Len(rows) + 1]
    /\ stored' = stored \cup {Len(rows) + 1}
    /\ UNCHANGED <<versions, kept, old, fence, writer, tagger, tags, announced, given>>

Swap ==
    /\ compactor.at = "swap"
    /\ compactor' = [compactor EXCEPT !.at = "idle"]
    /\ IF Conflicts(compactor.base, compactor.merged) \/ compactor.file \in old THEN
           UNCHANGED <<versions, kept>>
       ELSE
           /\ Newest < MaxVersions
           /\ versions' = Append(versions,
                [files |-> Append(SelectSeq(versions[Newest].files,
                                            LAMBDA f : f \notin compactor.merged), compactor.file),
                 gone |-> {r \in versions[Newest].gone : r[1] \notin compactor.merged},
                 touched |-> compactor.merged, epoch |-> 0])
           /\ kept' = kept \cup {Newest + 1}
    /\ UNCHANGED <<rows, stored, old, fence, writer, tagger, tags, announced, given>>

Choose ==
    /\ compactor.at = "idle"
    /\ compactor' = [compactor EXCEPT !.at = "announce", !.base = Newest,
                                      !.doomed = kept \ ({Newest} \cup tags)]
    /\ UNCHANGED <<versions, kept, rows, stored, old, fence, writer, tagger, tags, announced, given>>

Announce ==
    /\ compactor.at = "announce"
    /\ announced' = compactor.doomed
    /\ compactor' = [compactor EXCEPT !.at = "look"]
    /\ UNCHANGED <<versions, kept, rows, stored, old, fence, writer, tagger, tags, given>>

LookForTags ==
    /\ compactor.at = "look"
    /\ compactor' = [compactor EXCEPT !.at = "delete",
                       !.doomed = compactor.doomed \ (IF TagsLast THEN tags ELSE {})]
    /\ UNCHANGED <<versions, kept, rows, stored, old, fence, writer, tagger, tags, announced, given>>

Delete ==
    /\ compactor.at = "delete"
    /\ LET leave == kept \ compactor.doomed
           named(vs) == UNION {Range(versions[v].files) : v \in vs}
           orphans == (stored \ named(1..Newest)) \ (IF KeepsOrphans THEN stored \ old ELSE {})
       IN /\ kept' = leave
          /\ stored' = stored \ ((named(kept \ leave) \ named(leave)) \cup orphans)
    /\ compactor' = [compactor EXCEPT !.at = "retract"]
    /\ UNCHANGED <<versions, rows, old, fence, writer, tagger, tags, announced, given>>

Retract ==
    /\ compactor.at = "retract"
    /\ announced' = {}
    /\ compactor' = [compactor EXCEPT !.at = "idle", !.doomed = {}]
    /\ UNCHANGED <<versions, kept, rows, stored, old, fence, writer, tagger, tags, given>>

GrowOld ==
    /\ \E f \in stored \ (old \cup UNION {Range(versions[v].files) : v \in 1..Newest}) :
          old' = old \cup {f}
    /\ UNCHANGED <<versions, kept, rows, stored, fence, writer, compactor, tagger, tags, announced, given>>

----------------------------------------------------------------------------
(* Somebody names a version; `given` are those of which they were told that they stay. *)
LookForTag ==
    /\ IsTagged /\ tagger.at = "idle" /\ tags = {}
    /\ \E v \in kept : tagger' = [at |-> "put", version |-> v]
    /\ UNCHANGED <<versions, kept, rows, stored, old, fence, writer, compactor, tags, announced, given>>

PutTag ==
    /\ tagger.at = "put"
    /\ IF tagger.version \in kept THEN
           /\ tags' = {tagger.version}
           /\ tagger' = [tagger EXCEPT !.at = "check"]
       ELSE
           /\ tagger' = [at |-> "idle", version |-> 0]
           /\ UNCHANGED tags
    /\ UNCHANGED <<versions, kept, rows, stored, old, fence, writer, compactor, announced, given>>

CheckTag ==
    /\ tagger.at = "check"
    /\ IF Announces /\ (tagger.version \in announced \/ tagger.version \notin kept) THEN
           tags' = {} /\ UNCHANGED given
       ELSE
           given' = {tagger.version} /\ UNCHANGED tags
    /\ tagger' = [at |-> "idle", version |-> 0]
    /\ UNCHANGED <<versions, kept, rows, stored, old, fence, writer, compactor, announced>>

Next ==
    \/ \E x \in Writers : Acquire(x) \/ WriteRows(x) \/ ReadBase(x) \/ CheckFence(x) \/ CopyRows(x)
                          \/ Commit(x) \/ Tidy(x) \/ Repeat(x) \/ Die(x)
    \/ Merge \/ Swap \/ Choose \/ Announce \/ LookForTags \/ Delete \/ Retract \/ GrowOld
    \/ LookForTag \/ PutTag \/ CheckTag

Spec == Init /\ [][Next]_<<versions, kept, rows, stored, old, fence, writer, compactor, tagger, tags, announced, given>>

----------------------------------------------------------------------------
Symmetry == Permutations(Writers)
(* No version holds an edit twice, or two edits of the subject. *)
HeldOnce == \A v \in 1..Newest : Cardinality(Rows(v)) <= 1
(* No edit is lost, and none is replaced by an older one. *)
NeverOlder == \A v \in 1..(Newest - 1) : \A e \in Held(v) : \E l \in Held(v + 1) : l >= e
(* No fenced writer commits after the newer one has. *)
Fenced == \A v, u \in 1..Newest : (v < u /\ versions[u].epoch > 0)
                                    => versions[v].epoch <= versions[u].epoch
(* Every file of a version that was not deleted is there; so is the newest version. *)
Whole == Newest \in kept /\ \A v \in kept : Range(versions[v].files) \subseteq stored
(* No version of which somebody was told that it stays was deleted. *)
Tagged == given \subseteq kept
=============================================================================
