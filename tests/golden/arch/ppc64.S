# Registers a process table if the words below say so, sets registers, and takes the MSR below.
# Loaded at 0 by -bios; a pseries vCPU begins at 0x100.
	.machine power9
	.org 0x100
_start:	li 3,0x37c			# H_REGISTER_PROC_TBL
	lwz 4,0x200(0)
	ld 5,0x208(0)
	li 6,0
	li 7,0
	cmpwi 4,0
	beq 1f
	.long 0x44000022		# sc 1
1:	ld 10,0x210(0)
	mtsprg 1,10
	mtctr 10
	mtlr 10
	mfmsr 12
	oris 12,12,0x200		# vectors
	ori 12,12,0x2000		# floating point
	mtmsrd 12
	lfd 1,0x218(0)
	li 11,0x210
	lvx 5,0,11
	ld 1,0x218(0)
	ld 31,0x220(0)
	li 10,0x77
	lis 11,-1
	cmpwi 10,0x77
	ld 12,0x228(0)
	mtsrr1 12
	li 12,loop-_start+0x100
	mtsrr0 12
	rfid
loop:	b loop
	.org 0x200
	.long 0,0			# flags of the call, replaced by the tests
	.quad 0				# process table
	.quad 0x1234567890abcdef
	.quad 0x1111111111111111
	.quad 0x3131313131313131
	.quad 0x8000000000003000	# MSR; 30 at its end turns paging on
