/*
 * Says as whom it runs. The image nonewprivs has it with the set-user-ID bit: the suite looks whether no_new_privs takes
 * away what the bit gives.
 */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	printf("Effective uid: %d\n", geteuid());
	return 0;
}
