/*
 * A model of how the two sides of a ring sleep and wake each other (ring.md, "Sleeping and waking"; src/shm/ring.h, wake.c), for spin:
 *
 *	spin -DN=4 -DCAP=3 -DHOLD=2 -a ring.pml && cc -O2 -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan -m100000
 *
 * It explores every interleaving of one producer, one consumer and the machine's store buffers (x86-TSO: a store that is not
 * seq_cst lies in its core's buffer for any time; a seq_cst store or a locked add waits until the buffer is empty. Loads are of words
 * that the other side wrote, so no buffer ever serves its own core). A weaker machine is covered by an argument only: C11
 * orders the four accesses that matter (store waiter, load descriptor; store descriptor, load waiter) in one order that both
 * sides agree on, as they are all seq_cst, which is what the model's direct stores do.
 *
 * There are no time-outs: what in real life would be late by 10 ms is a deadlock here.
 *
 * What it shows:
 *   - nobody stays asleep while there is what it waits for, but for as long as the other is on its way to wake it (monitor());
 *     so also: never are both asleep (spin's own search for invalid end states);
 *   - a sleep is woken at most once (assertions in the wake macros);
 *   - a batch is visible as a whole (assertion in the consumer);
 *   - all N records arrive, whatever is held back of the head (end states again).
 *
 * That it can fail: each of these must, and tests/model/ring.sh sees that it does.
 *   -DBROKEN_RECHECK	do not look again after having said that one sleeps
 *   -DBROKEN_ORDER	say it with a store that is not seq_cst
 *   -DBROKEN_PUBLISH	publish with one
 *   -DBROKEN_SEQ	read the futex word after the second look instead of before
 *   -DBROKEN_ONCE	wake whenever somebody sleeps, not once for each sleep
 *   -DBROKEN_CHECK	release without looking whether the producer sleeps
 *   -DBROKEN_HEAD	look whether it sleeps without a seq_cst store of the head before
 */
#ifndef N
#define N 5 /* records */
#endif
#ifndef CAP
#define CAP 3 /* records in the ring */
#endif
#ifndef HOLD
#define HOLD 2 /* released records that make the consumer publish its head */
#endif
/* Numbers come round early, so that states become equal; in real life after 2^30 sleeps and 2^32 wake-ups. */
#define NEXT_EPOCH(e) (((e) + 1) % 8)
#define NEXT_SEQ(s) (((s) + 1) % 8)

#define FUTEX 1
#define BELL 2
#define HOW(waiter) ((waiter) & 3)
#define EPOCH(waiter) ((waiter) >> 2)

/* shared memory: who writes it */
bit desc[N];	   /* producer; that record is there */
byte space_waiter; /* producer */
byte data_seq;	   /* producer */
byte head;	   /* consumer */
byte data_waiter;  /* consumer */
byte space_seq;	   /* consumer */

/* the kernel */
bool c_on_futex, p_on_futex; /* waits in the queue of the peer's word */
bool c_bell, p_bell;	     /* something lies in the socket; more of it means the same */

/* of the proof only */
bool c_on_bell, p_on_bell;
bool p_owes, c_owes;	  /* made something visible and has not yet looked who sleeps, or not yet woken it */
byte p_tail, c_taken;
byte batch_end[N];
byte c_woken = 255, p_woken = 255; /* the sleep that was woken last */

/* --- store buffers --- */

mtype = { DESC, SPACE_WAITER, HEAD, DATA_WAITER };
chan p_buffer = [2] of { mtype, byte, byte };
chan c_buffer = [2] of { mtype, byte, byte };

proctype buffer(chan b)
{
	byte at, value;
end:
	do
	:: d_step { b ? DESC(at, value) -> desc[at] = value }
	:: d_step { b ? SPACE_WAITER(at, value) -> space_waiter = value }
	:: d_step { b ? HEAD(at, value) -> head = value }
	:: d_step { b ? DATA_WAITER(at, value) -> data_waiter = value }
	od
}

#define LATER(b, word, at, value) b ! word(at, value)

#ifdef BROKEN_ORDER
#define SAY_ASLEEP(b, word, var, value) LATER(b, word, 0, value)
#else
#define SAY_ASLEEP(b, word, var, value) atomic { empty(b) -> var = value }
#endif

/* --- what both sides do in the same way --- */

/* FUTEX_WAKE after a locked add, or a byte into the bell. */
#define WAKE(waiter, b, seq, on_futex, bell, last)                              \
	if                                                                      \
	:: HOW(waiter) == FUTEX ->                                              \
		atomic {                                                        \
			empty(b) -> seq = NEXT_SEQ(seq);                        \
			assert(last != EPOCH(waiter));                          \
			last = EPOCH(waiter)                                    \
		}                                                               \
		on_futex = false                                                \
	:: HOW(waiter) == BELL ->                                               \
		d_step {                                                        \
			assert(last != EPOCH(waiter));                          \
			last = EPOCH(waiter);                                   \
			bell = true                                             \
		}                                                               \
	fi

#ifdef BROKEN_ONCE
#define WANTS_WAKE(waiter, woken) (HOW(waiter) != 0)
#else
#define WANTS_WAKE(waiter, woken) (HOW(waiter) != 0 && waiter != woken)
#endif

/* FUTEX_WAIT: the kernel compares and queues in one step. On the bell: poll(), then swallow what rang. */
#define WAIT(how, seq, seen, on_futex, on_bell, bell)                           \
	if                                                                      \
	:: how == FUTEX ->                                                      \
		atomic {                                                        \
			if                                                      \
			:: seq == seen -> on_futex = true                       \
			:: else                                                 \
			fi                                                      \
		}                                                               \
		!on_futex                                                       \
	:: how == BELL ->                                                       \
		on_bell = true;                                                 \
		atomic { bell -> on_bell = false; bell = false }                \
	fi

inline choose_how(how)
{
	if
	:: how = FUTEX
	:: how = BELL
	fi
}

/* --- the producer: reserve, stage, publish; sleep when there is no room --- */

proctype producer()
{
	byte seen_head, first, batch, seq, waiter, woken, epoch, how;

	do
	:: p_tail < N ->
		/* a batch of one or two, if there is room; ring_tx_reserve() */
		if
		:: p_tail + 1 - seen_head > CAP -> seen_head = head
		:: else
		fi;
		if
		:: p_tail + 1 - seen_head > CAP ->
			choose_how(how);
			/* ring_tx_sleep() */
#ifndef BROKEN_SEQ
			seq = space_seq;
#endif
			epoch = NEXT_EPOCH(epoch);
			SAY_ASLEEP(p_buffer, SPACE_WAITER, space_waiter, (epoch << 2 | how));
#ifndef BROKEN_RECHECK
			seen_head = head;
#endif
#ifdef BROKEN_SEQ
			seq = space_seq;
#endif
			if
			:: p_tail + 1 - seen_head > CAP ->
				WAIT(how, space_seq, seq, p_on_futex, p_on_bell, p_bell)
			:: else
			fi;
			d_step { how = 0; seq = 0 } /* forgotten: fewer states */
			LATER(p_buffer, SPACE_WAITER, 0, 0)
		:: else ->
			/* ring_tx_stage(): all but the first are plain */
			d_step { first = p_tail; batch = 1 }
			if
			:: p_tail + 2 <= N && p_tail + 2 - seen_head <= CAP ->
				LATER(p_buffer, DESC, first + 1, 1);
				batch = 2
			:: true
			fi;
			/* ring_tx_publish() */
			d_step {
				p_owes = true;
				batch_end[first] = first + batch;
				p_tail = first + batch
			}
#ifdef BROKEN_PUBLISH
			LATER(p_buffer, DESC, first, 1);
#else
			atomic { empty(p_buffer) -> desc[first] = 1 }
#endif
			waiter = data_waiter;
			if
			:: WANTS_WAKE(waiter, woken) ->
				woken = waiter;
				WAKE(waiter, p_buffer, data_seq, c_on_futex, c_bell, c_woken)
			:: else
			fi;
			d_step { p_owes = false; waiter = 0; first = 0; batch = 0 }
		fi
	:: else -> break
	od
}

/* --- the consumer: peek, release; sleep when there is nothing --- */

/* ring_rx_publish_head() */
#define PUBLISH_HEAD                                                            \
	if                                                                      \
	:: published != c_taken ->                                              \
		c_owes = true;                                                  \
		LATER(c_buffer, HEAD, 0, c_taken);                              \
		d_step { published = c_taken; unchecked = true }                \
	:: else                                                                 \
	fi

#ifdef BROKEN_HEAD
#define STORE_HEAD skip
#else
#define STORE_HEAD atomic { empty(c_buffer) -> head = c_taken }
#endif

/* ring_rx_check_producer(), ring_wake_space() */
#ifdef BROKEN_CHECK
#define CHECK_PRODUCER skip
#else
#define CHECK_PRODUCER                                                          \
	if                                                                      \
	:: unchecked ->                                                         \
		unchecked = false;                                              \
		STORE_HEAD;                                                     \
		waiter = space_waiter;                                          \
		if                                                              \
		:: WANTS_WAKE(waiter, woken) ->                                 \
			woken = waiter;                                         \
			WAKE(waiter, c_buffer, space_seq, p_on_futex, p_bell, p_woken) \
		:: else                                                         \
		fi;                                                             \
		d_step { c_owes = false; waiter = 0 }                           \
	:: else                                                                 \
	fi
#endif

proctype consumer()
{
	byte published, seq, waiter, woken, epoch, how;
	bool unchecked, there;

	do
	:: c_taken < N ->
		there = desc[c_taken]; /* ring_rx_peek() */
		if
		:: there ->
			/* the first of a batch came: the rest did, too */
			assert(batch_end[c_taken] != c_taken + 2 || desc[c_taken + 1]);
			c_taken++; /* ring_rx_release() */
			if
			:: c_taken - published >= HOLD ->
				PUBLISH_HEAD;
				CHECK_PRODUCER
			:: else
			fi
		:: else ->
			PUBLISH_HEAD;
			CHECK_PRODUCER;
			choose_how(how);
			/* ring_rx_sleep() */
#ifndef BROKEN_SEQ
			seq = data_seq;
#endif
			epoch = NEXT_EPOCH(epoch);
			SAY_ASLEEP(c_buffer, DATA_WAITER, data_waiter, (epoch << 2 | how));
#ifndef BROKEN_RECHECK
			there = desc[c_taken];
#endif
#ifdef BROKEN_SEQ
			seq = data_seq;
#endif
			if
			:: !there ->
				WAIT(how, data_seq, seq, c_on_futex, c_on_bell, c_bell)
			:: else
			fi;
			d_step { how = 0; seq = 0; there = false }
			LATER(c_buffer, DATA_WAITER, 0, 0)
		fi
	:: else -> break
	od
}

/* --- what must never be --- */

#define C_SLEEPS (c_on_futex || (c_on_bell && !c_bell))
#define P_SLEEPS (p_on_futex || (p_on_bell && !p_bell))

proctype monitor()
{
end:
	if
	:: c_taken < N && C_SLEEPS && desc[c_taken] && !p_owes -> assert(false)
	:: P_SLEEPS && p_tail + 1 - head <= CAP && !c_owes -> assert(false)
	fi
}

init
{
	atomic {
		run buffer(p_buffer);
		run buffer(c_buffer);
		run producer();
		run consumer();
		run monitor()
	}
}
