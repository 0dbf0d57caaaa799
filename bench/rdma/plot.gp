# One plot of bench/rdma-vs-sockets.sh. usage: gnuplot -e "data='FILE.tsv'; figure='rtt'; where='what to know of the machine'" plot.gp
set terminal svg size 760,520 dynamic font "sans,12" background rgb "white"
set datafile separator "\t"
set datafile missing "-"
set datafile commentschars "#"
set logscale xy
set grid ytics lc rgb "#dddddd"
set key outside right top reverse Left samplen 2
set format y "%g"
set bmargin 5
set label 1 where at screen 0.02,0.03 left font ",10" textcolor rgb "#aa0000"
if (figure eq "rtt") {
	set title "Round trip of 64 bytes, mean, us"
	set xlabel "one after the other"
	set xtics (1, 2, 5, 10, 20, 50, 100)
	set xrange [0.8:125]
} else {
	set title (figure eq "bandwidth" ? "Bandwidth, MB/s" : "Latency, us (one way; READ: there and back)")
	set xlabel "bytes of a message"
	set xtics ("64 B" 64, "256 B" 256, "1 KiB" 1024, "4 KiB" 4096, "16 KiB" 16384, "64 KiB" 65536)
	set xrange [48:90000]
}
stats data skip 1 nooutput
n = STATS_columns
name(s) = s eq "tcp" ? "TCP" : s eq "udp" ? "UDP" : s eq "read" ? "RDMA READ" : s eq "write" ? "RDMA WRITE" : s eq "send" ? "RDMA SEND" : s
head(i) = name(system("sed -n 1p ".data." | cut -f".i))
plot for [i=2:n] data skip 1 using 1:i with linespoints lw 2 pt 7 ps 0.6 title head(i)
