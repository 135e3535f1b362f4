/*
 * Preloaded into a program whose wall clock is to jump: adds what the file SOCKPILOT_TEST_CLOCK says, a number of seconds in eight bytes, to
 * every answer about the time of day. Monotonic clocks stay.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead_s;

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("SOCKPILOT_TEST_CLOCK");
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	void *mapped;

	if (file < 0)
		return;
	mapped = mmap(NULL, sizeof(*ahead_s), PROT_READ, MAP_SHARED, file, 0);
	if (mapped != MAP_FAILED)
		ahead_s = mapped;
	close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int failed = (int)syscall(SYS_clock_gettime, clock, now);

	if (!failed && ahead_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += *ahead_s;
	return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec exact;

	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &exact))
		return -1;
	now->tv_sec = exact.tv_sec;
	now->tv_usec = exact.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *seconds)
{
	struct timespec exact;

	if (clock_gettime(CLOCK_REALTIME, &exact))
		return -1;
	if (seconds)
		*seconds = exact.tv_sec;
	return exact.tv_sec;
}
