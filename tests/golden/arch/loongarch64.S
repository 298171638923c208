# Goes to a direct window, sets registers and takes the mode of the words below.
# Loaded at 0x1c000000 by -bios; the two tables lie at 1 MiB and 2 MiB.
_start:	pcaddi $t0, 0
	li.d $t1, 0x9000000000000000
	or $t0, $t0, $t1
	li.d $t2, 0x9000000000000001
	csrwr $t2, 0x180	# DMW0
	jirl $zero, $t0, 0x40
	.org 0x40
	li.d $t2, 0x1234567812345678
	csrwr $t2, 0x30		# SAVE0
	li.d $t2, 0x1000000
	csrwr $t2, 0x19		# PGDL
	li.d $t2, 0x1010000
	csrwr $t2, 0x1a		# PGDH
	ld.d $t2, $t0, 0x140
	csrwr $t2, 0x1c		# PWCL
	ld.d $t2, $t0, 0x148
	csrwr $t2, 0x1d		# PWCH
	li.w $t2, 1
	csrwr $t2, 0x2		# EUEN: floating point
	li.d $t2, 0xdeadbeef00c0ffee
	movgr2fr.d $fa1, $t2
	li.w $t2, 1
	movgr2cf $fcc2, $t2
	li.d $ra, 0x1111111111111111
	li.d $sp, 0x3333333333333333
	li.d $a0, 0x4444444444444444
	li.d $s8, 0x3131313131313131
	ld.d $t2, $t0, 0x150
	csrwr $t2, 0x0		# CRMD
loop:	b loop
	.org 0x140
	.dword 0, 0, 0xa8	# replaced by the tests: b0 in the last turns paging on
